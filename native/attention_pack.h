// Rows become columns.
#pragma once
#include "vector.h"

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

#if defined(__AVX2__)
#if defined(__AVX512F__)
typedef __m512 wide;
#define MM_WIDE(name) _mm512_##name
#else
typedef __m256 wide;
#define MM_WIDE(name) _mm256_##name
#endif

// Four numbers of each fourth row, one after the other.
MM_INLINE wide every_fourth(const float* const* rows, int64_t i) {
#if defined(__AVX512F__)
  wide v = _mm512_castps128_ps512(_mm_loadu_ps(rows[0] + i));
  v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[4] + i), 1);
  v = _mm512_insertf32x4(v, _mm_loadu_ps(rows[8] + i), 2);
  return _mm512_insertf32x4(v, _mm_loadu_ps(rows[12] + i), 3);
#else
  return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(rows[0] + i)), _mm_loadu_ps(rows[4] + i), 1);
#endif
}

// y[i][j] = rows[j][i] for i < n and j < W, its rows ldy apart: transpose4 in each part of 128 bits.
MM_INLINE void transpose_wide(const float* const* rows, int64_t n, float* y, int64_t ldy) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4, y += 4 * ldy) {
    const wide a = every_fourth(rows, i), b = every_fourth(rows + 1, i);
    const wide c = every_fourth(rows + 2, i), d = every_fourth(rows + 3, i);
    const auto ab = MM_WIDE(castps_pd)(MM_WIDE(unpacklo_ps)(a, b)), cd = MM_WIDE(castps_pd)(MM_WIDE(unpacklo_ps)(c, d));
    const auto fg = MM_WIDE(castps_pd)(MM_WIDE(unpackhi_ps)(a, b)), hi = MM_WIDE(castps_pd)(MM_WIDE(unpackhi_ps)(c, d));
    MM_WIDE(storeu_ps)(y, MM_WIDE(castpd_ps)(MM_WIDE(unpacklo_pd)(ab, cd)));
    MM_WIDE(storeu_ps)(y + ldy, MM_WIDE(castpd_ps)(MM_WIDE(unpackhi_pd)(ab, cd)));
    MM_WIDE(storeu_ps)(y + 2 * ldy, MM_WIDE(castpd_ps)(MM_WIDE(unpacklo_pd)(fg, hi)));
    MM_WIDE(storeu_ps)(y + 3 * ldy, MM_WIDE(castpd_ps)(MM_WIDE(unpackhi_pd)(fg, hi)));
  }
  for (; i < n; i++, y += ldy)
    for (int j = 0; j < W; j++) y[j] = rows[j][i];
}
#endif

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

// The same of a multiple of W rows, and as they are.
MM_INLINE void transpose_vectors(const float* const* rows, int count, int64_t n, float* y) {
#if defined(__AVX2__)
  for (int j = 0; j < count; j += W) transpose_wide(rows + j, n, y + j, count);
#else
  transpose(rows, count, n, 1, y);
#endif
}

}  // namespace
