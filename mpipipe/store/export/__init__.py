"""Published tables in the formats that people use.

`formats` holds one module a format, found by its name; `exporting` writes aside and renames,
`rows` is what a format is given, `relational` what databases make of it.
"""
