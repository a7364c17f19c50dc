"""The completion record: every product of a run with its checksum, written last.

A run is done when this record exists and verifies, and only then: exit codes of launchers lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from mpipipe.data.errors import BadDataError
from mpipipe.run.removed import read_removed
from mpipipe.store.checksums import read_json, sha256_file, sha256_of, write_json_atomically
from mpipipe.store.layout import RunLayout

VERSION = 1


@dataclass(frozen=True)
class Product:
    """One file of a run: path relative to the run folder, size in bytes, SHA-256."""

    kind: str
    path: str
    size: int
    sha256: str


def products_of(rows: np.ndarray) -> Iterator[Product]:
    """The products in rows of `mpipipe.run.context.PRODUCTS`."""
    for row in rows:
        yield Product(
            row["kind"].decode(), row["path"].decode(), int(row["size"]), row["sha256"].decode()
        )


def product_of_file(kind: str, layout: RunLayout, relative: str) -> Product:
    """The product record of a file that exists."""
    path = layout.inside(relative)
    return Product(kind, relative, path.stat().st_size, sha256_file(path))


def write_completion(
    layout: RunLayout, products: Iterable[Product], outcomes: dict[str, dict[str, int]]
) -> None:
    """Write the record.

    Parameters
    ----------
    products
        Every file that makes up the result.
    outcomes
        Phase to number of tasks by kind of outcome.
    """
    listed = sorted(products, key=lambda product: product.path)
    digest = sha256_of(f"{p.path} {p.size} {p.sha256}" for p in listed)
    content = {
        "version": VERSION,
        "outcomes": outcomes,
        "digest": digest,
        "products": [[p.kind, p.path, p.size, p.sha256] for p in listed],
    }
    write_json_atomically(layout.completion, content)


@dataclass(frozen=True)
class Verdict:
    """What `verify_run` found.

    Attributes
    ----------
    n_products
        Products listed.
    faults
        One line for each product that is missing or altered; empty if all is well.
    outcomes
        Phase to number of tasks by kind of outcome.
    digest
        SHA-256 over all products: equal for equal results.
    n_removed
        Products that `mpipipe slim` has removed.
    """

    n_products: int
    faults: tuple[str, ...]
    outcomes: dict[str, dict[str, int]]
    digest: str
    n_removed: int = 0

    @property
    def is_verified(self) -> bool:
        """Whether every product is as it was written, or was removed to be made again."""
        return not self.faults


@dataclass(frozen=True)
class Completion:
    """What the completion record says: products, outcomes by phase, digest of all products."""

    products: tuple[Product, ...]
    outcomes: dict[str, dict[str, int]]
    digest: str


def read_completion(layout: RunLayout) -> Completion:
    """Read the record of a finished run, without looking at the products.

    Raises
    ------
    BadDataError
        If there is no completion record, or it is damaged.
    """
    if not layout.completion.exists():
        raise BadDataError(
            "the run is not complete: it has no completion record",
            file=layout.root,
            way_out=f"go on with: mpipipe run --resume {layout.root}",
        )
    content = read_json(layout.completion)
    try:
        version, digest = content["version"], content["digest"]
        listed = [Product(*entry) for entry in content["products"]]
        outcomes = content["outcomes"]
    except (KeyError, TypeError) as error:
        raise BadDataError(f"is no completion record: {error}", file=layout.completion) from error
    if version != VERSION:
        raise BadDataError(f"has unknown version {version}", file=layout.completion)
    if digest != sha256_of(f"{p.path} {p.size} {p.sha256}" for p in listed):
        raise BadDataError("its list of products was altered", file=layout.completion)
    return Completion(tuple(listed), outcomes, digest)


def verify_run(layout: RunLayout) -> Verdict:
    """Compare every product of a finished run with its record.

    Raises
    ------
    BadDataError
        If there is no completion record, or it is damaged.
    """
    found = read_completion(layout)
    removed = read_removed(layout)
    gone = [
        product
        for product in found.products
        if removed.get(product.path) == product.sha256 and not layout.inside(product.path).exists()
    ]
    missed = set(gone)
    looked_at = (product for product in found.products if product not in missed)
    faults = [fault for product in looked_at if (fault := fault_of(layout, product))]
    n_products = len(found.products)
    return Verdict(n_products, tuple(faults), found.outcomes, found.digest, len(gone))


def fault_of(layout: RunLayout, product: Product, *, content: bool = True) -> str:
    """What is wrong with a product on disk; empty if nothing is.

    Parameters
    ----------
    content
        Compare its checksum, too, not only its size.
    """
    path = layout.inside(product.path)
    try:
        size = path.stat().st_size
    except OSError:
        return f"{product.path}: missing"
    if size != product.size:
        return f"{product.path}: {size} bytes instead of {product.size}"
    if content and sha256_file(path) != product.sha256:
        return f"{product.path}: content was altered"
    return ""
