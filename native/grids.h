// Groups of a weight's rows on their grids: scale * code + bias. Each row of a group is computed by one lane.
#pragma once
#include "integers.h"
#include "pool.h"
#include "product_float.h"

namespace {

constexpr int64_t kLargestGroup = 128;
constexpr int64_t kRowsOfRound = 64;  // whose errors, of some thousand columns, stay in a level 2 cache

struct Grid {
  vf scale, bias;
};

// y[k] = number k of each of `rows` rows, W at most; the lanes beyond repeat the last.
MM_INLINE void turn(const float* x, int64_t ldx, int64_t rows, int64_t size, vf* y) {
  for (int64_t k = 0; k < size; k += W) {
    vi r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++) r[i] = bits_of(load(x + least(i, rows - 1) * ldx + k));
    transpose(r);
    for (int i = 0; i < W; i++) y[k + i] = bits_as_floats(r[i]);
  }
}

MM_INLINE void turn_back(const vf* x, int64_t rows, int64_t size, float* y, int64_t ldy) {
  for (int64_t k = 0; k < size; k += W) {
    vi r[W];
    for (int i = 0; i < W; i++) r[i] = bits_of(x[k + i]);
    transpose(r);
    for (int i = 0; i < W && i < rows; i++) store(y + i * ldy + k, bits_as_floats(r[i]));
  }
}

MM_INLINE vf inverse_of(vf scale) { return scale != 0 ? 1 / scale : vf{}; }

// The nearest codes, of 0 to `most`.
MM_INLINE vf nearest(vf x, vf bias, vf inverse, float most) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: where floats are whole numbers
  const vf code = min(all(most), max(vf{}, (x - bias) * inverse));
  return code + kRound - kRound;
}

// As mlx_mm/quantize/rounding.py finds it: of some ranges and what refits the best of them, what leaves the least error.
MM_KERNEL Grid fit(const mm_round_call& c, const float* shares, const vf* x) {
  const float most = float((1 << c.bits) - 1), half = most / 2;
  vf low = x[0], high = x[0], level = {};
  for (int64_t k = 0; k < c.size; k++) {
    low = min(low, x[k]), high = max(high, x[k]);
    level += shares[k] * x[k];
  }
  Grid best = {(high - low) / most, low};
  vf most_gained = all(-1);
  for (int64_t i = 0; i < c.pairs + c.refits; i++) {
    Grid tried = best;
    if (i < c.pairs) {
      const float below = c.cuts[2 * i], above = c.cuts[2 * i + 1];
      tried = {(high - low) * ((1 - below - above) / most), low + (high - low) * below};
    }
    const vf inverse = inverse_of(tried.scale);
    vf mean = {}, covariance = {}, variance = {};
    for (int64_t k = 0; k < c.size; k++) {
      const vf code = nearest(x[k], tried.bias, inverse, most) - half, share = shares[k] * code;
      mean += share, covariance += share * (x[k] - level), variance += share * code;
    }
    variance -= mean * mean;
    const vf fitted = variance > 0 ? covariance / variance : vf{}, gained = fitted * covariance;
    const vi better = gained > most_gained;
    most_gained = better ? gained : most_gained;
    best.scale = better ? fitted : best.scale;
    best.bias = better ? level - fitted * (mean + half) : best.bias;
  }
  return best;
}

// Numbers as a file of that type has them: so many bits fewer, rounded to even.
MM_INLINE vf rounded_bits(vf x, int dropped) {
  const vi bits = bits_of(x), odd = bits >> dropped & 1;
  return bits_as_floats((bits + ((1 << (dropped - 1)) - 1) + odd) & -(1 << dropped));
}
MM_INLINE vf as_stored(vf x, int32_t type) {
  if (type == MM_FLOAT32) return x;
  if (type == MM_BFLOAT16) return rounded_bits(x, 16);
  constexpr float kRound = 0.75f;  // where steps are 2^-24, those of subnormal half floats
  const vf normal = rounded_bits(x, 13), most = all(65504.0f);
  const vf stored = abs(x) < 6.103515625e-5f ? x + kRound - kRound : normal;
  return abs(stored) > most ? stored * INFINITY : stored;
}

// Writes the codes of what is `wanted`, a word at a time for each of W rows; with `within` x becomes what they err.
MM_KERNEL int64_t round_group(const mm_round_call& c, const Grid& grid, const float* within, vf* wanted, vf* x, vi* words) {
  const vf inverse = inverse_of(grid.scale);
  const float most = float((1 << c.bits) - 1);
  vi word = {};
  int used = 0;  // bits of the word
  int64_t full = 0;
  for (int64_t k = 0; k < c.size; k++) {
    const vf code = nearest(wanted[k], grid.bias, inverse, most);
    const vi bits = __builtin_convertvector(code, vi);
    word |= bits << used;
    used += c.bits;
    if (used >= 32) {
      words[full++] = word;
      used -= 32;
      word = used ? bits >> (c.bits - used) : vi{};
    }
    if (!within) continue;
    const vf error = x[k] - (code * grid.scale + grid.bias);
    x[k] = error;
    for (int64_t j = k + 1; j < c.size; j++) wanted[j] += within[k * c.size + j] * error;
  }
  return full;
}

// Group g of rows `first` to `first + rows`, W at most. change: of these rows, or null.
static void round_rows(const mm_round_call& c, int64_t g, int64_t first, int64_t rows, const float* change) {
  vf x[kLargestGroup], wanted[kLargestGroup], fitted[kLargestGroup];
  vi words[kLargestGroup * 8 / 32];
  const int64_t cols = c.groups * c.size;
  float* own = c.x + first * cols + g * c.size;
  turn(own, cols, rows, c.size, x);
  if (change) {
    turn(change, c.size, rows, c.size, wanted);
    for (int64_t k = 0; k < c.size; k++) fitted[k] = x[k];
    for (int64_t k = 0; k < c.size; k++) {
      const vf here = wanted[k];
      for (int64_t j = k; j < c.size; j++) fitted[j] += c.apart[g][k * c.size + j] * here;
      wanted[k] = here + x[k];
    }
  } else {
    for (int64_t k = 0; k < c.size; k++) wanted[k] = x[k];
  }
  Grid grid = fit(c, c.shares + g * c.size, change ? fitted : x);
  grid = {as_stored(grid.scale, c.type), as_stored(grid.bias, c.type)};
  const int64_t count = round_group(c, grid, c.within[g], wanted, x, words);
  if (c.within[g]) turn_back(x, rows, c.size, own, cols);
  for (int i = 0; i < W && i < rows; i++) {
    const int64_t row = first + i;
    c.scales[row * c.groups + g] = grid.scale[i], c.biases[row * c.groups + g] = grid.bias[i];
    for (int64_t k = 0; k < count; k++) c.packed[(row * c.groups + g) * count + k] = uint32_t(words[k][i]);
  }
}

int32_t round_weight(const mm_round_call* c) {
  if (c->size < 32 || c->size % 32 || c->size > kLargestGroup) return MM_UNSUPPORTED;
  const int64_t cols = c->groups * c->size;
  int32_t status = MM_OK;
  mm::parallel(ceil_div(c->rows, kRowsOfRound), [&](int64_t job) {
    const int64_t first = job * kRowsOfRound, rows = least(kRowsOfRound, c->rows - first);
    const Scratch<float> changes(rows * c->size);
    bool enough = bool(changes);
    for (int64_t g = 0; g < c->groups && enough; g++) {
      const float* change = nullptr;
      if (c->before[g]) {
        const mm_weight weight = {MM_PACKED, MM_FLOAT32, 0, 0, c->size, g * c->size - c->earlier[g], c->before[g]};
        mm_product_call call = {};
        call.x = c->x + first * cols + c->earlier[g], call.m = rows, call.ldx = cols;
        call.y = changes.get(), call.ldy = c->size;
        for (int64_t panel = 0; panel * kPanel < c->size && enough; panel++)
          enough = multiply_panel({&weight, &call, nullptr}, panel, 0, rows);
        change = changes.get();
      }
      for (int64_t r = 0; r < rows; r += W)
        round_rows(*c, g, first + r, least(W, rows - r), change ? change + r * c->size : nullptr);
    }
    if (!enough) __atomic_store_n(&status, int32_t(MM_NO_MEMORY), __ATOMIC_RELAXED);
  });
  return status;
}

}  // namespace
