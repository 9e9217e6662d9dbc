// Grids of groups, and rounding to them.
#include "../mlx_mm_native.h"
#include "tests.h"

namespace {

constexpr double kCuts[] = {0, 0, 0, 0.1, 0.1, 0, 0.1, 0.1};
constexpr int kPairs = 4, kRefits = 2;

double nearest(double x, double scale, double bias, int bits) {
  return scale == 0 ? 0 : fmin((1 << bits) - 1, fmax(0, nearbyint((x - bias) / scale)));
}

// Of numbers on a grid, their errors squared and weighed.
double error_of(const std::vector<double>& x, const Buffer<float>& shares, double scale, double bias, int bits) {
  double total = 0;
  for (size_t k = 0; k < x.size(); k++) total += shares[k] * pow(x[k] - nearest(x[k], scale, bias, bits) * scale - bias, 2);
  return total;
}

// The least error of the grids that are to be tried.
double least_error(const std::vector<double>& x, const Buffer<float>& shares, int bits) {
  const double most = (1 << bits) - 1;
  double low = x[0], high = x[0], level = 0, scale = 0, bias = 0, best = INFINITY;
  for (size_t k = 0; k < x.size(); k++) low = fmin(low, x[k]), high = fmax(high, x[k]), level += shares[k] * x[k];
  for (int turn = 0; turn < kPairs + kRefits; turn++) {
    double tried = scale, from = bias;
    if (turn < kPairs) {
      tried = (high - low) * (1 - kCuts[2 * turn] - kCuts[2 * turn + 1]) / most;
      from = low + (high - low) * kCuts[2 * turn];
    }
    double mean = 0, both = 0, square = 0;
    for (size_t k = 0; k < x.size(); k++) {
      const double code = nearest(x[k], tried, from, bits);
      mean += shares[k] * code, both += shares[k] * code * (x[k] - level), square += shares[k] * code * code;
    }
    const double variance = square - mean * mean, fitted = variance > 1e-12 ? both / variance : 0;
    double left = 0;
    for (size_t k = 0; k < x.size(); k++)
      left += shares[k] * pow(x[k] - level - fitted * (nearest(x[k], tried, from, bits) - mean), 2);
    if (left < best) best = left, scale = fitted, bias = level - fitted * mean;
  }
  return error_of(x, shares, scale, bias, bits);
}

void test_fit(int64_t rows, int64_t size, int bits, bool changed, Random& random) {
  begin("mm_fit_grid, (%d, %d), %d bits, changed %d", int(rows), int(size), bits, changed);
  const int64_t ldx = size + 3;
  Buffer<float> x((rows - 1) * ldx + size), change(rows * size), apart(size * size), shares(size), cuts(2 * kPairs);
  Buffer<float> scales(rows), biases(rows);
  random.fill(x), random.fill(change), random.fill(apart), random.fill(shares);
  float total = 0;
  for (int64_t k = 0; k < size; k++) total += shares[k] = fabsf(shares[k]) + 0.1f;
  for (int64_t k = 0; k < size; k++) shares[k] /= total;
  for (int i = 0; i < 2 * kPairs; i++) cuts[i] = float(kCuts[i]);
  mm_grid_call call = {};
  call.x = x.get(), call.shares = shares.get(), call.cuts = cuts.get();
  if (changed) call.change = change.get(), call.apart = apart.get();
  call.scales = scales.get(), call.biases = biases.get();
  call.rows = rows, call.ldx = ldx, call.size = size, call.pairs = kPairs, call.refits = kRefits, call.bits = bits;
  if (!expect(mm_fit_grid(&call) == MM_OK, "status")) return;
  for (int64_t r = 0; r < rows; r++) {
    std::vector<double> row(size);
    for (int64_t j = 0; j < size; j++) {
      row[j] = x[r * ldx + j];
      for (int64_t k = 0; changed && k <= j; k++) row[j] += double(apart[k * size + j]) * change[r * size + k];
    }
    const double found = error_of(row, shares, scales[r], biases[r], bits), least = least_error(row, shares, bits);
    if (!expect(found <= least * 1.01 + 1e-9, "another grid errs less")) return;
  }
  call.size = size - 1;
  expect(mm_fit_grid(&call) == MM_UNSUPPORTED, "size");
}

void test_round(int64_t rows, int64_t size, int bits, bool compensated, bool changed, Random& random) {
  begin("mm_round_group, (%d, %d), %d bits, compensated %d, changed %d", int(rows), int(size), bits, compensated, changed);
  const int64_t ldx = size + 5, words = size * bits / 32, ldp = words + 1;
  Buffer<float> x((rows - 1) * ldx + size), change(rows * size), within(size * size), scales(rows), biases(rows);
  Buffer<uint32_t> packed((rows - 1) * ldp + words);
  random.fill(x), random.fill(change), random.fill(within);
  for (int64_t i = 0; i < size * size; i++) within[i] *= 0.1f;
  for (int64_t i = 0; i < packed.size(); i++) packed[i] = 0xabababab;
  for (int64_t r = 0; r < rows; r++) scales[r] = r % 5 == 4 ? 0 : 3.0f / (1 << bits), biases[r] = -1.5f + 0.01f * r;
  const std::vector<float> given(x.get(), x.get() + x.size());
  mm_round_call call = {};
  call.x = x.get(), call.scales = scales.get(), call.biases = biases.get(), call.packed = packed.get();
  if (changed) call.change = change.get();
  if (compensated) call.within = within.get();
  call.rows = rows, call.ldx = ldx, call.size = size, call.ldp = ldp, call.bits = bits;
  if (!expect(mm_round_group(&call) == MM_OK, "status")) return;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t j = 0; j < size; j++) {
      uint32_t code = 0;
      for (int b = 0; b < bits; b++) {
        const int64_t bit = j * bits + b;
        code |= (packed[r * ldp + bit / 32] >> (bit % 32) & 1) << b;
      }
      double wanted = given[r * ldx + j] + (changed ? change[r * size + j] : 0.0);
      for (int64_t k = 0; compensated && k < j; k++) wanted += double(within[k * size + j]) * x[r * ldx + k];
      const double value = code * double(scales[r]) + biases[r];
      const double best = nearest(wanted, scales[r], biases[r], bits) * scales[r] + biases[r];
      if (!expect(fabs(value - wanted) <= fabs(best - wanted) + 1e-4, "another code is nearer")) return;
      const double left = compensated ? given[r * ldx + j] - value : given[r * ldx + j];
      if (!expect(fabs(x[r * ldx + j] - left) <= 1e-5, "a number is wrong")) return;
    }
  for (int64_t r = 0; r + 1 < rows; r++) {
    expect(packed[r * ldp + words] == 0xabababab, "words of others");
    for (int64_t j = size; j < ldx; j++) expect(x[r * ldx + j] == given[r * ldx + j], "columns of others");
  }
  call.size = 2 * 128;
  expect(mm_round_group(&call) == MM_UNSUPPORTED, "size");
}

}  // namespace

void test_grids(bool few, Random& random) {
  for (int64_t size : few ? Sizes{64} : Sizes{32, 64, 128})
    for (int bits : {2, 3, 4, 5, 6, 8})
      for (int64_t rows : few ? Sizes{1, 19} : Sizes{1, 3, 16, 17, 150})
        for (int way = 0; way < 4; way++) {
          if (way < 2) test_fit(rows, size, bits, way, random);
          test_round(rows, size, bits, way & 1, way & 2, random);
        }
}
