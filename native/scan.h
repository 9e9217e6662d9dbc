// How well each of many rows of bytes fits queries: whole numbers, exactly.
#pragma once
#include "integers.h"
#include "pool.h"

namespace {

constexpr int64_t kScanBytes = 1 << 17;   // of rows, for one job: they stay in a cache while all queries see them
constexpr int64_t kScanStep = 64;         // rows are whole multiples of it, so of every vector
constexpr int64_t kWidestScan = 1 << 16;  // sums of 255 * 127 * so many are below 2^31
constexpr int kScanRows = 4;              // at once
constexpr int64_t kScanAhead = 1 << 13;   // bytes that are asked for before they are needed: twice as fast

MM_INLINE vi load_codes(const int8_t* p) {
  const vi bytes = load_words(p);
  return kSignedCodes ? bytes : bytes ^ all_words(int32_t(0x80808080));  // q + 128, where codes are unsigned
}

// What 128 instead of 0 adds to a sum.
MM_INLINE int32_t surplus(const int8_t* query, int64_t width) {
  int32_t total = 0;
  if (!kSignedCodes)
    for (int64_t k = 0; k < width; k++) total += query[k];
  return 128 * total;
}

// y[n] = 128 (row n of codes) . high + (row n) . low for N rows. high_surplus, low_surplus: of the two.
template <int N>
MM_KERNEL void scan_rows(const int8_t* codes, int64_t width, const int8_t* high, const int8_t* low,
                         int32_t high_surplus, int32_t low_surplus, float* y) {
  vi highs[N] = {}, lows[N] = {};
  for (int64_t k = 0; k < width; k += 4 * W) {
    const vi h = load_words(high + k), l = load_words(low + k);
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const vi c = load_codes(codes + n * width + k);
      __builtin_prefetch(codes + n * width + k + kScanAhead, 0, 2);
      highs[n] = dot<true>(highs[n], c, h);
      lows[n] = dot<true>(lows[n], c, l);
    }
  }
#pragma GCC unroll 4
  for (int n = 0; n < N; n++)
    y[n] = float(128 * int64_t(sum_of_words(highs[n]) - high_surplus) + (sum_of_words(lows[n]) - low_surplus));
}

int32_t scan(const int8_t* codes, int64_t rows, int64_t width, const int8_t* high, const int8_t* low, int64_t queries,
             float* y) {
  if (width % kScanStep || width > kWidestScan) return MM_UNSUPPORTED;
  if (!rows || !queries) return MM_OK;
  Scratch<int32_t> surpluses(2 * queries);
  if (!surpluses) return MM_NO_MEMORY;
  for (int64_t q = 0; q < queries; q++) {
    surpluses.get()[2 * q] = surplus(high + q * width, width);
    surpluses.get()[2 * q + 1] = surplus(low + q * width, width);
  }
  const int64_t fitting = width ? kScanBytes / width / kScanRows * kScanRows : rows;
  const int64_t step = most(fitting, kScanRows);
  mm::parallel(ceil_div(rows, step), [&](int64_t job) {
    const int64_t end = least(rows, (job + 1) * step);
    for (int64_t q = 0; q < queries; q++) {
      const int8_t *h = high + q * width, *l = low + q * width;
      const int32_t hs = surpluses.get()[2 * q], ls = surpluses.get()[2 * q + 1];
      float* mine = y + q * rows;
      int64_t r = job * step;
      for (; r + kScanRows <= end; r += kScanRows)
        scan_rows<kScanRows>(codes + r * width, width, h, l, hs, ls, mine + r);
      for (; r < end; r++) scan_rows<1>(codes + r * width, width, h, l, hs, ls, mine + r);
    }
  });
  return MM_OK;
}

}  // namespace
