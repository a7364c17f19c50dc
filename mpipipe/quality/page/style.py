"""How the page looks: on a desk and on a phone."""

STYLE = """
:root{--ink:#222;--line:#d8dce2;--soft:#f4f6f9;--link:#1f5f9e}
*{box-sizing:border-box}
html{scroll-padding-top:3.2rem}
body{margin:0 auto;max-width:1180px;padding:0 1rem 4rem;color:var(--ink);background:#fff;
font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}
h1{font-size:1.6rem;margin:1.2rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;margin:2rem 0 .6rem;border-bottom:2px solid var(--line);padding-bottom:.2rem}
h3{font-size:1rem;margin:.2rem 0 .4rem}
header p{margin:.35rem 0}
a{color:var(--link);text-decoration:none}
a:hover,a:focus{text-decoration:underline}
nav{position:sticky;top:0;z-index:2;background:#fff;padding:.5rem 0;display:flex;gap:.3rem 1rem;
overflow-x:auto;white-space:nowrap;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.35rem .6rem;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:600;background:var(--soft)}
tr:target,dt:target{background:#fff6d6}
.numbers{table-layout:fixed}
.numbers th:nth-child(1){width:31%}.numbers th:nth-child(2){width:15%}
.numbers th:nth-child(3){width:24%}.numbers th:nth-child(4){width:12%}
.range,.note{display:block;color:#666;font-size:.82rem}
small{color:#666}
.chip{display:inline-block;border-radius:.8rem;padding:.05rem .6rem;margin:.1rem .3rem .1rem 0;
font-size:.85rem;white-space:nowrap}
.met{background:#dcefe0;color:#14532d}.low{background:#fdf0c8;color:#6b4e00}
.missed{background:#f8d9d6;color:#8a1c12}.reported{background:#e6ebf2;color:#34445a}
.chip.unknown{background:#eee;color:#555}
tr.unknown td{color:#666;font-size:.9rem}
.warn{background:#fdf3e1;border-left:4px solid #e0a000;padding:.1rem 1rem .6rem;margin-top:1rem}
.warn h2{border:0;margin-top:.6rem}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(340px,100%),1fr));gap:1rem}
.grid.small{grid-template-columns:repeat(auto-fill,minmax(min(230px,100%),1fr))}
figure{margin:0;padding:.7rem;border:1px solid var(--line);border-radius:.5rem}
figure svg{width:100%;height:auto;display:block}
figure img{width:100%;display:block;image-rendering:pixelated;background:#000}
figcaption{font-size:.85rem;color:#555;margin-top:.4rem}
.none{background:#eee;color:#777;aspect-ratio:1;display:grid;place-items:center}
svg text{font:13px system-ui,"DejaVu Sans",sans-serif;fill:#333}
svg text.s{font-size:11px;fill:#777}
svg text[fill="#fff"]{fill:#fff}
.scroll{overflow-x:auto}
.log,.ccds{font-size:.85rem}
.log td{white-space:nowrap}
.log .flagged td{background:#fdf3e1}
.ccds td:first-child{white-space:nowrap}
.behind{display:none;border:2px solid var(--link);border-radius:.5rem;padding:.4rem 1rem 1rem;
margin-top:1rem}
.behind:target{display:block}
.behind table{max-width:34rem}
dt{font-weight:600;margin-top:.7rem}
dd{margin:.1rem 0 0 1rem}
@media (max-width:640px){
body{padding:0 .7rem 3rem}
.numbers thead{display:none}
.numbers tr{display:grid;grid-template-columns:1fr auto;gap:.1rem .8rem;padding:.5rem 0;
border-bottom:1px solid var(--line)}
.numbers td{border:0;padding:0;align-self:center}
.numbers td:first-child,.numbers td[colspan]{width:auto;grid-column:1/-1}
.numbers td[data-l=verdict]{grid-column:2;grid-row:2;text-align:right}
.numbers td[data-l=required],.numbers td[data-l=sample]{font-size:.85rem;color:#555}
.numbers td[data-l=sample]{text-align:right;grid-column:2}
.numbers td[data-l=required]:not(:empty)::before{content:"required "}
.range{display:inline;margin-left:.5rem}
.ccds thead{display:none}
.ccds tr{display:block;padding:.4rem 0;border-bottom:1px solid var(--line)}
.ccds td{display:block;border:0;padding:.1rem 0}
}
@media print{nav{position:static}.behind{display:block}}
"""
