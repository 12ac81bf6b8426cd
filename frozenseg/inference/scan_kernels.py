"""The Triton kernels of `scan`: they resize mask logits along rows and compute results from them.

cells: (N, R, w), the masks of N queries; they have the rows of a band of the output, but the
columns of the masks. first_cells (W,) and shares (3, W): see `MaskResizer.column_shares`. This
module is imported only if Triton is installed.
"""

# mypy: disallow-untyped-defs=False, disable-error-code="no-any-return"

import triton
import triton.language as tl


@triton.jit
def _place(first_cells, shares, column, columns, width):
    """Return the three cells around each of several output columns, and their shares."""
    known = column < columns
    first = tl.load(first_cells + column, mask=known, other=0)
    left = tl.load(shares + column, mask=known, other=0)
    middle = tl.load(shares + columns + column, mask=known, other=0)
    right = tl.load(shares + 2 * columns + column, mask=known, other=0)
    second = tl.minimum(first + 1, width - 1)
    return first, second, tl.minimum(first + 2, width - 1), left, middle, right


@triton.jit
def _logit(row, first, second, third, left, middle, right, known):
    """Return the mask logits at several columns of one row of cells."""
    total = left * tl.load(row + first, mask=known, other=0).to(tl.float32)
    total += middle * tl.load(row + second, mask=known, other=0).to(tl.float32)
    return total + right * tl.load(row + third, mask=known, other=0).to(tl.float32)


@triton.jit
def find_owners(
    cells,
    first_cells,
    shares,
    factors,
    order,
    winner,
    in_columns,
    histograms,
    queries,
    rows,
    width,
    columns,
    BINS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Find the query that wins each pixel, and count the pixels of each query.

    A program processes several pixels of one row.
    factors: (N,), the class probability of each query; negative if it is not in the results.
    order: (N,), the index of each query in the results.
    winner: (R, W) int32, the index in the results of the query that wins the pixel, or -1 if the
        pixel is not in the query's own mask.
    in_columns: (N, W) int8, 1 where the query with this index in the results has a pixel in a
        column.
    histograms: (programs, 2, BINS) int32: for each query the pixels for which it has the largest
        score, and how many of them lie in its own mask; the last bin counts all other pixels. BINS
        is larger than N.
    """
    row = tl.program_id(1)
    column = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    known = column < columns
    first, second, third, left, middle, right = _place(first_cells, shares, column, columns, width)
    best = tl.full((BLOCK_COLUMNS,), -1.0, dtype=tl.float32)
    owner = tl.full((BLOCK_COLUMNS,), BINS - 1, dtype=tl.int32)
    within = tl.zeros((BLOCK_COLUMNS,), dtype=tl.int32)
    source = cells + row.to(tl.int64) * width
    for query in range(queries):
        factor = tl.load(factors + query)
        logit = _logit(source, first, second, third, left, middle, right, known)
        prob = tl.sigmoid(logit)
        score = tl.where(factor >= 0, prob * factor, -1.0)
        better = score > best  # among equals the first wins
        best = tl.where(better, score, best)
        owner = tl.where(better, query, owner)
        within = tl.where(better, (prob >= 0.5).to(tl.int32), within)
        source += rows.to(tl.int64) * width
    owner = tl.where(known, owner, BINS - 1)
    mine = (within != 0) & known & (owner < BINS - 1)
    number = tl.load(order + owner, mask=mine, other=-1)
    tl.store(winner + row * columns + column, number, mask=known)
    tl.store(in_columns + number.to(tl.int64) * columns + column, 1, mask=mine)
    program = (row * tl.num_programs(0) + tl.program_id(0)).to(tl.int64)
    target = histograms + program * 2 * BINS + tl.arange(0, BINS)
    tl.store(target, tl.histogram(owner, BINS))
    tl.store(target + BINS, tl.histogram(tl.where(mine, owner, BINS - 1), BINS))


@triton.jit
def measure_masks(
    cells,
    first_cells,
    shares,
    slots,
    masks,
    probs,
    counts,
    sums,
    queries,
    rows,
    width,
    columns,
    mask_size,
    WRITE_PROBS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    """Compute masks and probabilities at output size, and the sizes of the masks.

    A program processes several rows of one query.
    slots: (N,), the index of each query in `masks`, or -1 if it has none.
    masks: int8, mask_size pixels for each slot; the pointer is at the first pixel of the band.
    probs: (N, R, W) float16, written only if WRITE_PROBS is set.
    counts: (programs along rows, 2, N) int32, the pixels of each mask: those with a probability of
        at least 0.5, and those with a positive logit.
    sums: (programs along rows, N), the sums of the probabilities where the logit is positive.
    """
    query = tl.program_id(0)
    first_row = tl.program_id(1) * BLOCK_ROWS
    slot = tl.load(slots + query).to(tl.int64)
    by_probability = tl.zeros((BLOCK_COLUMNS,), dtype=tl.int32)
    by_logit = tl.zeros((BLOCK_COLUMNS,), dtype=tl.int32)
    total = tl.zeros((BLOCK_COLUMNS,), dtype=tl.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        column = start + tl.arange(0, BLOCK_COLUMNS)
        known = column < columns
        first, second, third, left, middle, right = _place(
            first_cells, shares, column, columns, width
        )
        for row in range(first_row, min(first_row + BLOCK_ROWS, rows)):
            line = query.to(tl.int64) * rows + row
            source = cells + line * width
            logit = _logit(source, first, second, third, left, middle, right, known)
            prob = tl.sigmoid(logit)
            inside = (logit > 0) & known
            by_probability += ((prob >= 0.5) & known).to(tl.int32)
            by_logit += inside.to(tl.int32)
            total += tl.where(inside, prob, 0.0)
            target = masks + slot * mask_size + row * columns + column
            tl.store(target, inside.to(tl.int8), mask=known & (slot >= 0))
            if WRITE_PROBS:
                tl.store(probs + line * columns + column, prob.to(tl.float16), mask=known)
    target = counts + tl.program_id(1) * 2 * queries + query
    tl.store(target, tl.sum(by_probability, axis=0))
    tl.store(target + queries, tl.sum(by_logit, axis=0))
    tl.store(sums + tl.program_id(1) * queries + query, tl.sum(total, axis=0))


@triton.jit
def find_classes(
    probs,
    weights,
    ids,
    queries,
    padded_queries,
    classes,
    pixels,
    threshold,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_QUERIES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    """Find the class of each pixel: the one with the largest sum of weight times mask probability.

    probs: (N, pixels) float16. weights: (classes, padded_queries) float16, padded with zeros to
    complete blocks along both axes. ids: (pixels,) int32; -1 where the largest sum does not exceed
    `threshold`. The inputs of products are float16, and the sums float32.
    """
    pixel = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    best = tl.full((BLOCK_PIXELS,), -1.0, dtype=tl.float32)
    winner = tl.zeros((BLOCK_PIXELS,), dtype=tl.int32)
    for first_class in range(0, classes, BLOCK_CLASSES):
        number = first_class + tl.arange(0, BLOCK_CLASSES)
        total = tl.zeros((BLOCK_CLASSES, BLOCK_PIXELS), dtype=tl.float32)
        for start in range(0, queries, BLOCK_QUERIES):
            query = start + tl.arange(0, BLOCK_QUERIES)
            weight = tl.load(weights + number[:, None] * padded_queries + query)
            mask = (query < queries)[:, None] & (pixel < pixels)
            source = probs + query.to(tl.int64)[:, None] * pixels + pixel
            total = tl.dot(weight, tl.load(source, mask=mask, other=0), total)
        total = tl.where((number < classes)[:, None], total, -1.0)
        largest = tl.max(total, axis=0)
        winner = tl.where(largest > best, tl.argmax(total, axis=0) + first_class, winner)
        best = tl.maximum(largest, best)
    winner = tl.where(best <= threshold, -1, winner)
    tl.store(ids + pixel, winner, mask=pixel < pixels)
