// What attention does with a few queries and one block of keys: a product, weights, and a product.
#pragma once
#include "functions.h"
#include "attention_pack.h"

namespace {

constexpr int kQueries = kRegisters == 32 ? 8 : 6;  // rows of a tile: with two vectors each, sums that fit in registers
constexpr int kKeys = 256;                          // of a block: K and V of one are in the L2 cache, the scores in L1
constexpr int kScoresApart = kKeys + W;             // rows of scores, which shall not share the cache's sets
constexpr float kMasked = -1e30f;                   // as on the plain path: rows without any key give a mean, not NaN
constexpr float kLowest = -3.4028234e38f;           // what -infinity is subtracted from

// c (R, N W) = a b, where a's numbers are RowStep and DepthStep apart and b is (depth, N W), its rows ldb apart. Each
// sum runs over `depth` (1 or more) from the first to the last, whatever R and N are: tiles of any size give the same
// bits.
template <int R, int N, int RowStep, int DepthStep>
MM_KERNEL void tile_product(int64_t depth, const float* a, const float* b, int64_t ldb, float* c, int64_t ldc) {
  vf s[R][N];
  MM_UNROLL for (int i = 0; i < R; i++)
    MM_UNROLL for (int j = 0; j < N; j++) s[i][j] = vf{};
  do {
    MM_UNROLL for (int i = 0; i < R; i++)
      MM_UNROLL for (int j = 0; j < N; j++) s[i][j] += all(a[i * RowStep]) * load(b + j * W);
    a += DepthStep, b += ldb;
  } while (--depth);
  MM_UNROLL for (int i = 0; i < R; i++)
    MM_UNROLL for (int j = 0; j < N; j++) store(c + i * ldc + j * W, s[i][j]);
}

// A matrix in panels of two vectors, the last of one where that is enough.
struct Panels {
  const float* first;
  int64_t cols;       // of all together
  int64_t next;       // from one panel to the next
  int64_t row_apart;  // within a panel; 0 where rows lie together
};

// c (R, cols) = a b, of which the first `cols` are wanted.
template <int R, int RowStep, int DepthStep>
MM_INLINE void panels_product(int64_t depth, const float* a, const Panels& b, int64_t cols, float* c, int64_t ldc) {
  const float* panel = b.first;
  for (int64_t j = 0; j < cols; j += 2 * W, panel += b.next)
    if (b.cols - j > W)
      tile_product<R, 2, RowStep, DepthStep>(depth, a, panel, b.row_apart ? b.row_apart : 2 * W, c + j, ldc);
    else
      tile_product<R, 1, RowStep, DepthStep>(depth, a, panel, b.row_apart ? b.row_apart : W, c + j, ldc);
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
