// What attention does with a few queries and one block of keys: a product, weights, and a product.
#pragma once
#include "functions.h"

namespace {

constexpr int kQueries = kRegisters == 32 ? 8 : 6;  // rows of a tile: with two vectors each, sums that fit in registers
constexpr int kKeys = 256;                          // of a block: K and V of one are in the L2 cache, the scores in L1
constexpr int kScoresApart = kKeys + W;             // rows of scores, which shall not share the cache's sets
constexpr float kMasked = -1e30f;                   // as on the plain path: rows without any key give a mean, not NaN
constexpr float kLowest = -3.4028234e38f;           // what -infinity is subtracted from

// c (R, N W) = a b, where a's numbers are RowStep and DepthStep apart and b is (depth, N W). Each sum runs over `depth`
// (1 or more) from the first to the last, whatever R and N are: tiles of any size give the same bits.
template <int R, int N, int RowStep, int DepthStep>
MM_KERNEL void tile_product(int64_t depth, const float* a, const float* b, float* c, int64_t ldc) {
  vf s[R][N];
  MM_UNROLL for (int i = 0; i < R; i++)
    MM_UNROLL for (int j = 0; j < N; j++) s[i][j] = vf{};
  do {
    MM_UNROLL for (int i = 0; i < R; i++)
      MM_UNROLL for (int j = 0; j < N; j++) s[i][j] += all(a[i * RowStep]) * load(b + j * W);
    a += DepthStep, b += N * W;
  } while (--depth);
  MM_UNROLL for (int i = 0; i < R; i++)
    MM_UNROLL for (int j = 0; j < N; j++) store(c + i * ldc + j * W, s[i][j]);
}

// c (R, cols) = a b, where b lies in panels of two vectors (the last may be of one), each (panel_depth, 2 W).
template <int R, int RowStep, int DepthStep>
MM_INLINE void panels_product(int64_t depth, const float* a, const float* b, int64_t panel_depth, int64_t panel_cols,
                              int64_t cols, float* c, int64_t ldc) {
  for (int64_t j = 0; j < cols; j += 2 * W, b += panel_depth * 2 * W)
    if (panel_cols - j > W)
      tile_product<R, 2, RowStep, DepthStep>(depth, a, b, c + j, ldc);
    else
      tile_product<R, 1, RowStep, DepthStep>(depth, a, b, c + j, ldc);
}

typedef float v4 __attribute__((vector_size(16)));
typedef float v4_unaligned __attribute__((vector_size(16), aligned(4)));
#if defined(__clang__)
#define MM_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t v4i __attribute__((vector_size(16)));
#define MM_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, v4i{i, j, k, l})
#endif

// y[i][j] = scale * rows[j][i] for i < n and j < 4, its rows ldy apart.
MM_INLINE void transpose4(const float* const* rows, int64_t n, float scale, float* y, int64_t ldy) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, y += 4 * ldy) {
    v4 a[4];
    for (int j = 0; j < 4; j++) a[j] = *reinterpret_cast<const v4_unaligned*>(rows[j] + i) * scale;
    const v4 b[] = {MM_SHUFFLE4(a[0], a[1], 0, 4, 1, 5), MM_SHUFFLE4(a[2], a[3], 0, 4, 1, 5),
                    MM_SHUFFLE4(a[0], a[1], 2, 6, 3, 7), MM_SHUFFLE4(a[2], a[3], 2, 6, 3, 7)};
    *reinterpret_cast<v4_unaligned*>(y) = MM_SHUFFLE4(b[0], b[1], 0, 1, 4, 5);
    *reinterpret_cast<v4_unaligned*>(y + ldy) = MM_SHUFFLE4(b[0], b[1], 2, 3, 6, 7);
    *reinterpret_cast<v4_unaligned*>(y + 2 * ldy) = MM_SHUFFLE4(b[2], b[3], 0, 1, 4, 5);
    *reinterpret_cast<v4_unaligned*>(y + 3 * ldy) = MM_SHUFFLE4(b[2], b[3], 2, 3, 6, 7);
  }
  for (; i < n; i++, y += ldy)
    for (int j = 0; j < 4; j++) y[j] = rows[j][i] * scale;
}

// y (n, count) = scale * the transpose of `count` rows; rows beyond the first four may be taken twice.
MM_INLINE void transpose(const float* const* rows, int count, int64_t n, float scale, float* y) {
  if (count < 4) {
    for (int64_t i = 0; i < n; i++)
      for (int j = 0; j < count; j++) y[i * count + j] = rows[j][i] * scale;
    return;
  }
  for (int j = 0; j < count; j += 4) {
    const int from = j + 4 <= count ? j : count - 4;
    transpose4(rows + from, n, scale, y + from, count);
  }
}

// (count, width), rows ld apart, -> panels of 2 W keys, each (width, 2 W), the last of W where that is enough. What is
// left of it repeats the last key.
MM_KERNEL void pack_keys(const float* k, int64_t ld, int64_t count, int64_t width, float* packed) {
  const float* rows[2 * W];
  for (int64_t s = 0; s < count; s += 2 * W, packed += 2 * W * width) {
    const int cols = count - s > W ? 2 * W : W;
    for (int j = 0; j < cols; j++) rows[j] = k + least(s + j, count - 1) * ld;
    transpose(rows, cols, width, 1, packed);
  }
}

// (count, width), rows ld apart, -> panels of 2 W numbers of each, (count, 2 W), filled up with zeros.
MM_KERNEL void pack_values(const float* v, int64_t ld, int64_t count, int64_t width, float* packed) {
  for (int64_t i = 0; i < width; i += 2 * W) {
    const int cols = width - i > W ? 2 * W : W;
    for (int64_t s = 0; s < count; s++, packed += cols)
      for (int j = 0; j < cols; j += W) {
        const int64_t left = width - i - j;
        const float* from = v + s * ld + i + j;
        store(packed + j, left >= W ? load(from) : load_some(from, left));
      }
  }
}

// scores[0 … n) of one query where mask bytes are 0.
MM_INLINE void hide(float* scores, const uint8_t* mask, int64_t n) {
  typedef uint8_t bytes __attribute__((vector_size(W)));
  int64_t s = 0;
  for (; s + W <= n; s += W) {
    bytes kept;
    memcpy(&kept, mask + s, W);
    store(scores + s, __builtin_convertvector(kept, vi) != 0 ? load(scores + s) : all(kMasked));
  }
  for (; s < n; s++) scores[s] = mask[s] ? scores[s] : kMasked;
}

MM_INLINE void add(float* scores, const float* mask, int64_t n) {
  int64_t s = 0;
  for (; s + W <= n; s += W) store(scores + s, load(scores + s) + load(mask + s));
  for (; s < n; s++) scores[s] += mask[s];
}

// The numbers from `first` to before `end` become x.
MM_INLINE void fill(float* scores, int64_t first, int64_t end, float x) {
  for (int64_t s = first; s < end; s++) scores[s] = x;
}

// The greatest of n scores; up to a whole vector, -infinity is put behind them.
MM_INLINE float greatest_score(float* scores, int64_t n) {
  const int64_t whole = ceil_div(n, W) * W;
  fill(scores, n, whole, -INFINITY);
  vf top = all(kLowest);
  for (int64_t s = 0; s < whole; s += W) top = max(load(scores + s), top);
  return greatest(top);
}

// Scores -> weights exp(score - most), whose sum is returned.
MM_INLINE float weigh(float* scores, int64_t n, float most) {
  vf sums = {};
  for (int64_t s = 0; s < n; s += W) {
    const vf weight = exp_of_negative(load(scores + s) - most);
    store(scores + s, weight);
    sums += weight;
  }
  return sum(sums);
}

}  // namespace
