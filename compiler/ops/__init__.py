"""The operators of the graph language; importing this package registers all of them in `OPS`."""

from bessemer.compiler.ops import (  # noqa: F401  (each registers its operators)
    bind,
    control,
    random,
    trees,
)
from bessemer.compiler.ops.contractions import (  # noqa: F401  (each registers its operators)
    conv,
    depthwise_gradient,
    matmul,
    matmul_blocks,
    matmul_rounded,
    plane_conv,
    round_blocks,
)
from bessemer.compiler.ops.image import (  # noqa: F401  (each registers its operators)
    col2im,
    deform_columns,
    deform_conv,
    neighbours,
    resize,
    roi,
    roi_align_gradient,
    roi_pool_gradient,
    sample,
)
from bessemer.compiler.ops.indexing import (  # noqa: F401  (each registers its operators)
    index,
    nonzero,
    scatter,
    tensor_scatter,
)
from bessemer.compiler.ops.movement import (  # noqa: F401  (each registers its operators)
    move,
    pad,
    reinterpret,
    reshape,
    windows,
)
from bessemer.compiler.ops.pointwise import (  # noqa: F401  (each registers its operators)
    cast,
    elementwise,
)
from bessemer.compiler.ops.pooling import (  # noqa: F401  (each registers its operators)
    pool,
    pool_gradients,
)
from bessemer.compiler.ops.recurrence import (  # noqa: F401  (each registers its operators)
    byte_lstm,
    gru,
    gru_gradient,
    linear_attention,
    lstm,
    lstm_gradient,
    rnn,
    rnn_gradient,
)
from bessemer.compiler.ops.reductions import (  # noqa: F401  (each registers its operators)
    channel_sum_parts,
    channel_sums,
    reduce,
    scan,
)
from bessemer.compiler.ops.sorting import (  # noqa: F401  (each registers its operators)
    arg_extremes,
    non_max_suppression,
    sort,
    unique,
)
