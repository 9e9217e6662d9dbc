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
double error_of(const std::vector<double>& x, const float* shares, double scale, double bias, int bits) {
  double total = 0;
  for (size_t k = 0; k < x.size(); k++) total += shares[k] * pow(x[k] - nearest(x[k], scale, bias, bits) * scale - bias, 2);
  return total;
}

// The least error of the grids that are to be tried.
double least_error(const std::vector<double>& x, const float* shares, int bits) {
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

// Two blocks of two groups each; of the second block errors of the first change nothing.
void test_round(int64_t rows, int64_t size, int bits, int type, bool compensated, Random& random) {
  begin("mm_round, %d rows, groups of %d, %d bits, type %d, compensated %d", int(rows), int(size), bits, type, compensated);
  constexpr int64_t kGroups = 4;
  const int64_t cols = kGroups * size, words = size * bits / 32, panels = (size + mm_panel() - 1) / mm_panel();
  Buffer<float> x(rows * cols), within(kGroups * size * size), before(size * size), apart(size * size);
  Buffer<float> shares(cols), cuts(2 * kPairs), packed_before(panels * mm_panel() * size);
  Buffer<float> scales(rows * kGroups), biases(rows * kGroups);
  Buffer<uint32_t> packed(rows * kGroups * words);
  Buffer<int64_t> earlier(kGroups);
  random.fill(x), random.fill(within), random.fill(before), random.fill(apart), random.fill(shares);
  if (rows > 2)
    for (int64_t k = 0; k < cols; k++) x[2 * cols + k] = 0.25f;  // a row without a range
  for (int64_t i = 0; i < within.size(); i++) within[i] *= 0.1f;
  for (int64_t i = 0; i < before.size(); i++) before[i] *= 0.1f;
  for (int64_t g = 0; g < kGroups; g++) {
    float total = 0;
    for (int64_t k = g * size; k < (g + 1) * size; k++) total += shares[k] = fabsf(shares[k]) + 0.1f;
    for (int64_t k = g * size; k < (g + 1) * size; k++) shares[k] /= total;
  }
  for (int i = 0; i < 2 * kPairs; i++) cuts[i] = float(kCuts[i]);
  mm_weight weight = {};
  weight.kind = MM_ROWS, weight.rows = weight.cols = size, weight.data = before.get();
  expect(mm_pack(&weight, packed_before.get()) == MM_OK, "status");
  const float *befores[kGroups] = {}, *aparts[kGroups] = {}, *withins[kGroups] = {};
  for (int64_t g = 0; g < kGroups; g++) {
    earlier[g] = g / 2 * 2 * size;
    if (compensated) withins[g] = within.get() + g * size * size;
    if (compensated && g % 2) befores[g] = packed_before.get(), aparts[g] = apart.get();
  }
  const std::vector<float> given(x.get(), x.get() + x.size());
  mm_round_call call = {};
  call.x = x.get(), call.earlier = earlier.get(), call.before = befores, call.apart = aparts, call.within = withins;
  call.shares = shares.get(), call.cuts = cuts.get(), call.packed = packed.get();
  call.scales = scales.get(), call.biases = biases.get();
  call.rows = rows, call.groups = kGroups, call.size = size, call.pairs = kPairs, call.refits = kRefits;
  call.bits = bits, call.type = type;
  if (!expect(mm_round(&call) == MM_OK, "status")) return;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t g = 0; g < kGroups; g++) {
      const float *own = given.data() + r * cols + g * size, *errors = x.get() + r * cols + g * size;
      const double scale = scales[r * kGroups + g], bias = biases[r * kGroups + g];
      std::vector<double> change(size), fitted(size);
      for (int64_t j = 0; befores[g] && j < size; j++)
        for (int64_t k = 0; k < size; k++) change[j] += double(before[j * size + k]) * errors[k - size];
      for (int64_t j = 0; j < size; j++) {
        fitted[j] = own[j];
        for (int64_t k = 0; befores[g] && k <= j; k++) fitted[j] += apart[k * size + j] * change[k];
      }
      const double found = error_of(fitted, shares.get() + g * size, scale, bias, bits);
      const double least = least_error(fitted, shares.get() + g * size, bits);
      // Errors of 8 bits are so small a part of the whole that float32 hardly tells which are the least.
      const double allowed = bits == 8 ? 1.1 : 1.03;
      // Of 16 bit scales: a step of their own, times the largest code, and of their biases.
      const double lost = type == MM_FLOAT32 ? 1e-5 : type == MM_FLOAT16 ? 5e-4 : 4e-3;
      const double step = lost * (fabs(scale) * (1 << bits) + fabs(bias));
      if (!expect(sqrt(found) <= sqrt(least) * allowed + step + 1e-5, "another grid errs less")) return;
      for (int64_t j = 0; j < size; j++) {
        uint32_t code = 0;
        for (int b = 0; b < bits; b++) {
          const int64_t bit = j * bits + b;
          code |= (packed[(r * kGroups + g) * words + bit / 32] >> (bit % 32) & 1) << b;
        }
        double wanted = own[j] + change[j];
        for (int64_t k = 0; compensated && k < j; k++) wanted += double(withins[g][k * size + j]) * errors[k];
        const double value = code * scale + bias, best = nearest(wanted, scale, bias, bits) * scale + bias;
        if (!expect(fabs(value - wanted) <= fabs(best - wanted) + 1e-4, "another code is nearer")) return;
        if (!expect(fabs(errors[j] - (compensated ? own[j] - value : own[j])) <= 1e-5, "an error is wrong")) return;
      }
    }
  call.size = 160;
  expect(mm_round(&call) == MM_UNSUPPORTED, "size");
}

}  // namespace

void test_grids(bool few, Random& random) {
  for (int64_t size : few ? Sizes{64} : Sizes{32, 64, 128})
    for (int bits : {2, 3, 4, 5, 6, 8})
      for (int64_t rows : few ? Sizes{1, 19} : Sizes{1, 3, 17, 150})
        for (int type : {MM_FLOAT32, MM_FLOAT16, MM_BFLOAT16})
          for (bool compensated : {false, true}) test_round(rows, size, bits, type, compensated, random);
}
