// Queries, keys and values, as the products of attention read them.
#pragma once
#include "transpose.h"

namespace {

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

// y (n, count) = scale * the transpose of `count` rows.
MM_INLINE void transpose(const float* const* rows, int count, int64_t n, float scale, float* y) {
  if (count < 4) {
    for (int64_t i = 0; i < n; i++)
      for (int j = 0; j < count; j++) y[i * count + j] = rows[j][i] * scale;
    return;
  }
  for (int j = 0; j < count; j += 4) {
    const int from = j + 4 <= count ? j : count - 4;  // some are taken twice where they do not come out even
    transpose4(rows + from, n, scale, y + from, count);
  }
}

// y[i][j] = rows[j][i] of W rows, for i < n; the rows of x are ldx apart, those of y ldy.
MM_INLINE void transpose_wide(const float* x, int64_t ldx, int64_t n, float* y, int64_t ldy) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, y += 4 * ldy) {
    vu columns[4];
    transpose_fours(reinterpret_cast<const char*>(x + i), ldx * int64_t(sizeof(float)), columns);
    for (int j = 0; j < 4; j++) store(y + j * ldy, reinterpret_cast<vf>(columns[j]));
  }
  for (; i < n; i++, y += ldy)
    for (int j = 0; j < W; j++) y[j] = x[j * ldx + i];
}

// (count, width), rows ld apart, -> panels of 2 W keys, each (width, 2 W), the last of W where that is enough. What is
// left of it repeats the last key.
MM_KERNEL void pack_keys(const float* k, int64_t ld, int64_t count, int64_t width, float* packed) {
  for (int64_t s = 0; s < count; s += 2 * W, packed += 2 * W * width) {
    const int cols = count - s > W ? 2 * W : W;
    for (int part = 0; part < cols; part += W) {
      if (count - s - part >= W) {
        transpose_wide(k + (s + part) * ld, ld, width, packed + part, cols);
        continue;
      }
      const float* rows[W];
      for (int j = 0; j < W; j++) rows[j] = k + least(s + part + j, count - 1) * ld;
      for (int j = 0; j < W; j += 4) transpose4(rows + j, width, 1, packed + part + j, cols);
    }
  }
}

// (count, width), rows ld apart, -> panels of 2 W numbers of each, (count, 2 W), filled up with zeros.
MM_KERNEL void pack_values(const float* v, int64_t ld, int64_t count, int64_t width, float* packed) {
  for (int64_t s = 0; s < count; s++, v += ld)
    for (int64_t i = 0; i < width; i += W) {
      const int64_t panel = i / (2 * W), cols = width - panel * 2 * W > W ? 2 * W : W;
      float* to = packed + panel * 2 * W * count + s * cols + i % (2 * W);
      store(to, width - i >= W ? load(v + i) : load_some(v + i, width - i));
    }
}

}  // namespace
