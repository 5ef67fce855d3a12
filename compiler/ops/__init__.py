"""The operators of the graph language; importing this package registers all of them in `OPS`."""

from bessemer.compiler.ops import (  # noqa: F401  (each registers its operators)
    bind,
    cast,
    control,
    conv,
    elementwise,
    index,
    matmul,
    move,
    nonzero,
    pad,
    pool,
    reduce,
    resize,
    reshape,
    scan,
    scatter,
    sort,
    unique,
)
