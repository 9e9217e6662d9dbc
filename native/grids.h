// Groups of a weight's rows on their grids: scale * code + bias. Each row of a group is computed by one lane.
#pragma once
#include "integers.h"
#include "pool.h"

namespace {

constexpr int64_t kLargestGroup = 128;
constexpr int64_t kRowsPerJob = 4 * W;

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
MM_KERNEL Grid fit(const mm_grid_call& c, const vf* x) {
  const float most = float((1 << c.bits) - 1), half = most / 2;
  vf low = x[0], high = x[0], level = {};
  for (int64_t k = 0; k < c.size; k++) {
    low = min(low, x[k]), high = max(high, x[k]);
    level += c.shares[k] * x[k];
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
      const vf code = nearest(x[k], tried.bias, inverse, most) - half, share = c.shares[k] * code;
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

int32_t fit_grid(const mm_grid_call* c) {
  if (c->size < 32 || c->size % 32 || c->size > kLargestGroup) return MM_UNSUPPORTED;
  mm::parallel(ceil_div(c->rows, kRowsPerJob), [=](int64_t job) {
    vf x[kLargestGroup], change[kLargestGroup];
    for (int64_t r = job * kRowsPerJob; r < least(c->rows, (job + 1) * kRowsPerJob); r += W) {
      const int64_t rows = least(W, c->rows - r);
      turn(c->x + r * c->ldx, c->ldx, rows, c->size, x);
      if (c->change) {
        turn(c->change + r * c->size, c->size, rows, c->size, change);
        for (int64_t k = 0; k < c->size; k++)
          for (int64_t j = k; j < c->size; j++) x[j] += c->apart[k * c->size + j] * change[k];
      }
      const Grid grid = fit(*c, x);
      rows == W ? store(c->scales + r, grid.scale) : store_some(c->scales + r, grid.scale, rows);
      rows == W ? store(c->biases + r, grid.bias) : store_some(c->biases + r, grid.bias, rows);
    }
  });
  return MM_OK;
}

// Rows `first` to `first + rows`, W at most.
MM_KERNEL void round_rows(const mm_round_call& c, int64_t first, int64_t rows) {
  vf x[kLargestGroup], wanted[kLargestGroup];
  vi words[kLargestGroup * 8 / 32];
  turn(c.x + first * c.ldx, c.ldx, rows, c.size, x);
  if (c.change) turn(c.change + first * c.size, c.size, rows, c.size, wanted);
  for (int64_t k = 0; k < c.size; k++) wanted[k] = c.change ? wanted[k] + x[k] : x[k];
  const vf scale = rows == W ? load(c.scales + first) : load_some(c.scales + first, rows);
  const vf bias = rows == W ? load(c.biases + first) : load_some(c.biases + first, rows);
  const vf inverse = inverse_of(scale);
  const float most = float((1 << c.bits) - 1);
  vi word = {};
  int used = 0;  // bits of the word
  int64_t full = 0;
  for (int64_t k = 0; k < c.size; k++) {
    const vf code = nearest(wanted[k], bias, inverse, most);
    const vi bits = __builtin_convertvector(code, vi);
    word |= bits << used;
    used += c.bits;
    if (used >= 32) {
      words[full++] = word;
      used -= 32;
      word = used ? bits >> (c.bits - used) : vi{};
    }
    if (!c.within) continue;
    const vf error = x[k] - (code * scale + bias);
    x[k] = error;
    for (int64_t j = k + 1; j < c.size; j++) wanted[j] += c.within[k * c.size + j] * error;
  }
  alignas(64) int32_t lanes_of_word[W];
  for (int64_t k = 0; k < full; k++) {
    memcpy(lanes_of_word, &words[k], sizeof lanes_of_word);
    for (int i = 0; i < W && i < rows; i++) c.packed[(first + i) * c.ldp + k] = uint32_t(lanes_of_word[i]);
  }
  if (c.within) turn_back(x, rows, c.size, c.x + first * c.ldx, c.ldx);
}

int32_t round_group(const mm_round_call* c) {
  if (c->size < 32 || c->size % 32 || c->size > kLargestGroup) return MM_UNSUPPORTED;
  mm::parallel(ceil_div(c->rows, kRowsPerJob), [=](int64_t job) {
    for (int64_t r = job * kRowsPerJob; r < least(c->rows, (job + 1) * kRowsPerJob); r += W)
      round_rows(*c, r, least(W, c->rows - r));
  });
  return MM_OK;
}

}  // namespace
