// The float32 product, for weights of every kind.
//
// A job takes one panel of the weight and some rows of x, in blocks of kBlock columns: sums within a block are one chain
// of additions, and the blocks are added one after the other. So a number does not depend on what is computed beside it.
#pragma once
#include "functions.h"
#include "panels.h"

namespace {

// Rows of x that are multiplied together: with the three vectors of a panel they fill the registers.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTile = 8;
#else
constexpr int kTile = 4;
#endif
constexpr int64_t kBlock = 2 * kUnit;  // columns; of a panel they are 48 kB with AVX-512, which level 2 caches hold
constexpr int64_t kMostRows = 256;     // of a job: what they share of x and their sums stay in a level 2 cache too
constexpr int64_t kFewestRows = 32;    // so that unpacking a panel is not most of a job
constexpr int64_t kJobsPerThread = 4;  // that threads end together

// sums (kRows, kPanel) = x panel, or sums += x panel.
template <int kRows>
MM_KERNEL void multiply(const float* x, int64_t ldx, const float* panel, int64_t n, bool add, float* sums) {
  vf s[kRows][3] = {};
#pragma GCC unroll 2
  for (int64_t k = 0; k < n; k++) {
    const vf w0 = load(panel + k * kPanel), w1 = load(panel + k * kPanel + W), w2 = load(panel + k * kPanel + 2 * W);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; i++) {
      const vf a = all(x[i * ldx + k]);
      s[i][0] += a * w0, s[i][1] += a * w1, s[i][2] += a * w2;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; i++)
#pragma GCC unroll 3
    for (int j = 0; j < 3; j++) {
      float* p = sums + i * kPanel + j * W;
      store(p, add ? load(p) + s[i][j] : s[i][j]);
    }
}

typedef void (*Multiply)(const float* x, int64_t ldx, const float* panel, int64_t n, bool add, float* sums);
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr Multiply kMultiply[] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>,
                                  multiply<5>, multiply<6>, multiply<7>, multiply<8>};
#else
constexpr Multiply kMultiply[] = {multiply<1>, multiply<2>, multiply<3>, multiply<4>};
#endif

// y = activation(sums + bias) + residual for `rows` rows from `first` on, and columns from `col` on.
MM_KERNEL void finish(const mm_product_call& c, int64_t first, int64_t rows, int64_t col, int64_t cols, const float* sums) {
  for (int64_t j = 0; j < cols; j += W) {
    const int64_t n = least(W, cols - j);
    const vf bias = !c.bias ? vf{} : n == W ? load(c.bias + col + j) : load_some(c.bias + col + j, n);
    for (int64_t i = 0; i < rows; i++) {
      vf v = activate(c.activation, load(sums + i * kPanel + j) + bias);
      const float* residual = c.residual + (first + i) * c.ldr + col + j;
      if (c.residual) v += n == W ? load(residual) : load_some(residual, n);
      float* y = c.y + (first + i) * c.ldy + col + j;
      n == W ? store(y, v) : store_some(y, v, n);
    }
  }
}

struct FloatJob {
  const mm_weight* weight;
  const mm_product_call* call;
  Unpack unpack;  // null where the weight is packed
};

// The product of one panel and rows `first` to `last` of x; false where there is no memory.
bool multiply_panel(const FloatJob& job, int64_t panel, int64_t first, int64_t last) {
  const mm_weight& w = *job.weight;
  const mm_product_call& c = *job.call;
  const Scratch<float> sums((last - first) * kPanel), unpacked(job.unpack ? kBlock * kPanel : 0);
  if (!sums || !unpacked) return false;
  int64_t k = 0;
  do {
    const int64_t n = least(kBlock, w.cols - k);
    const float* block = static_cast<const float*>(w.data) + (panel * w.cols + k) * kPanel;
    if (job.unpack) {
      unpack_panel(w, job.unpack, panel, k, n, unpacked.get());
      block = unpacked.get();
    }
    for (int64_t m = first; m < last; m += kTile)
      kMultiply[least(kTile, last - m) - 1](c.x + m * c.ldx + k, c.ldx, block, n, k > 0, sums.get() + (m - first) * kPanel);
    k += n;
  } while (k < w.cols);
  const int64_t col = panel * kPanel;
  finish(c, first, last - first, col, least(kPanel, w.rows - col), sums.get());
  return true;
}

// Rows of x for each job, in whole tiles.
MM_INLINE int64_t rows_per_job(int64_t rows, int64_t panels) {
  int64_t blocks = ceil_div(rows, kMostRows);
  while (blocks * panels < kJobsPerThread * mm::threads() && rows / (blocks * 2) >= kFewestRows) blocks *= 2;
  return ceil_div(ceil_div(rows, blocks), kTile) * kTile;
}

int32_t product_float(const mm_weight* w, const mm_product_call* c) {
  if (w->kind != MM_PACKED && !can_unpack(*w)) return MM_UNSUPPORTED;
  if (!c->m || !w->rows) return MM_OK;
  const FloatJob job = {w, c, w->kind == MM_PACKED ? nullptr : unpack_of(*w)};
  const int64_t panels = ceil_div(w->rows, kPanel), rows = rows_per_job(c->m, panels);
  int32_t status = MM_OK;
  mm::parallel(ceil_div(c->m, rows) * panels, [&](int64_t i) {
    const int64_t first = i / panels * rows;
    if (!multiply_panel(job, i % panels, first, least(c->m, first + rows)))
      __atomic_store_n(&status, int32_t(MM_NO_MEMORY), __ATOMIC_RELAXED);
  });
  return status;
}

}  // namespace
