// Many rows times a quantised weight: inputs as one byte each, codes unpacked a panel of columns at a time.
//
// A number of the result is the sum over steps of input scale * scale * whole number + sum of inputs * bias, always in
// the same order: it depends neither on the other rows nor on how the work is divided.
#pragma once
#include "finish.h"
#include "panels.h"
#include "quantise_inputs.h"

namespace {

// Rows whose sums are in registers at once, for the columns of a panel: with AVX-512 those of a step and of all steps,
// 24 of 32 registers, else those of a step.
#if defined(__AVX512F__)
constexpr int kRowsOfTile = 4;
#elif defined(__aarch64__)
constexpr int kRowsOfTile = 6;
#else
constexpr int kRowsOfTile = 3;
#endif
constexpr int kColumns = int(kPanel), kColumnVectors = kColumns / W;
constexpr int64_t kLeastRows = 48;  // that are worth unpacking a panel again for another thread
constexpr int64_t kTilesOfJob = 4;   // whose inputs are rounded by one thread
constexpr int64_t kInputBytes = 256 << 10;  // that stay in a cache of a processor's own while panels pass

// kRowsOfTile rows: bytes (steps, kRowsOfTile, step), scales and sums (steps, kRowsOfTile).
struct Inputs {
  int8_t* bytes;
  float *scales, *sums;
};

// Columns of a weight: codes (cols / 4, kColumns, 4), scales and biases (steps, kColumns).
struct Panel {
  const uint8_t* codes;
  const float *scales, *biases;
};

static void quantise_tile(const mm_product_call& c, const mm_weight& w, const int32_t* rows, int count,
                          const Inputs& in) {
  const int64_t step = step_of(w);
  for (int i = 0; i < count; i++) {
    const float* x = c.x + rows[i] * c.ldx;
    for (int64_t s = 0; s < w.cols / step; s++, x += step) {
      const int64_t at = s * kRowsOfTile + i;
      int8_t* bytes = in.bytes + at * step;
      if (step == kLongestStep)  // a loop whose length is known
        quantise_step8(x, kLongestStep, bytes, in.scales + at, in.sums + at);
      else
        quantise_step8(x, step, bytes, in.scales + at, in.sums + at);
      if (w.bits == 4)
        for (int64_t k = 0; k < step; k += 16) even_odd(bytes + k);
    }
  }
}

// Unpack W columns, from number `first` on, into vector `j` of a panel. Those beyond the last repeat it.
template <class C>
MM_KERNEL void unpack_codes(const mm_weight& w, int64_t first, int j, uint8_t* codes) {
  const uint8_t* rows[W];
  const int64_t row_bytes = words_per_row(w) * 4;
  for (int i = 0; i < W; i++) rows[i] = static_cast<const uint8_t*>(w.data) + least(first + i, w.rows - 1) * row_bytes;
  const uint8_t* ahead = rows[0] + W * row_bytes;  // the next rows, in the order in which they lie
  for (int64_t at = 0, k = 0; at < row_bytes; at += C::kBytes) {
    const int64_t left = row_bytes - at;
    vi r[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++)
      r[i] = left < C::kBytes ? load_last_block<C>(rows[i] + at, left) : load_block<C>(rows[i] + at);
    for (int i = 0; i < W; i++, ahead += C::kBytes) __builtin_prefetch(ahead, 0, 2);
    transpose(r);
    for (int i = 0; i < W && k < w.cols / 4; i++)
      for (int part = 0; part < C::kVectors; part++, k++)
        store_words(codes + (k * kColumns + j * W) * 4, codes_in<C>(r[i], part));
  }
}

// The codes of a panel, written to memory unless they lie packed just as they are wanted.
template <class C>
MM_INLINE const uint8_t* codes_of_panel(const mm_weight& w, int64_t number, uint8_t* memory) {
  if (w.kind != MM_AFFINE_PACKED) {
    for (int j = 0; j < kColumnVectors; j++) unpack_codes<C>(w, number * kColumns + j * W, j, memory);
    return memory;
  }
  if constexpr (C::kBits == 4 || C::kBits == 8) {
    const uint8_t* packed = static_cast<const uint8_t*>(w.data) + number * kColumns * words_per_row(w) * 4;
    if (C::kBits == 8 && !kSignedCodes) return packed;
    for (int64_t k = 0; k < words_per_row(w); k++)
      for (int j = 0; j < kColumnVectors; j++)
        for (int part = 0; part < C::kVectors; part++)
          store_words(memory + ((k * C::kVectors + part) * kColumns + j * W) * 4,
                      codes_in<C>(load_words(packed + (k * kColumns + j * W) * 4), part));
  }
  return memory;
}

// The same of scales and biases, by way of `rows`: 2 W rows of whole vectors.
static void unpack_scales(const mm_weight& w, int64_t first, int j, float* scales, float* biases, float* rows) {
  const int64_t steps = w.cols / step_of(w), room = ceil_div(steps, W) * W;
  for (int i = 0; i < W; i++) scales_of_row(w, least(first + i, w.rows - 1), rows + i * room, rows + (W + i) * room);
  for (int which = 0; which < 2; which++)
    for (int64_t s = 0; s < steps; s += W) {
      vi r[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) r[i] = bits_of(load(rows + (which * W + i) * room + s));
      transpose(r);
      float* y = (which ? biases : scales) + s * kColumns + j * W;
      for (int i = 0; i < W && s + i < steps; i++) store(y + i * kColumns, bits_as_floats(r[i]));
    }
}

// Scales and biases of a panel of groups, for each step.
static void repeat_scales(const mm_weight& w, const Panel& packed, float* scales, float* biases) {
  const int64_t steps = w.cols / step_of(w), of_group = w.group_size / step_of(w);
  for (int64_t s = 0; s < steps; s++)
    for (int64_t i = 0; i < kColumns; i += W) {
      const int64_t at = s / of_group * kColumns + i;
      const vf scale = load(packed.scales + at), bias = load(packed.biases + at);
      store(scales + s * kColumns + i, scale);
      store(biases + s * kColumns + i, kSignedCodes && w.bits == 8 ? bias + 128 * scale : bias);
    }
}

// Fills in scales and biases, as codes_of_panel does codes; memory: 2 W rows of whole vectors behind both.
static void scales_of_panel(const mm_weight& w, int64_t number, float* memory, Panel* panel) {
  const int64_t steps = w.cols / step_of(w), groups = w.cols / w.group_size;
  float *scales = memory, *biases = memory + steps * kColumns;
  *panel = {panel->codes, scales, biases};
  if (w.kind == MM_AFFINE_PACKED && w.type == MM_FLOAT32) {
    const int64_t before = number * kColumns * groups;
    const Panel packed = {panel->codes, static_cast<const float*>(w.scales) + before,
                          static_cast<const float*>(w.biases) + before};
    if (steps == groups && !(kSignedCodes && w.bits == 8)) *panel = packed;
    else repeat_scales(w, packed, scales, biases);
  } else {
    for (int j = 0; j < kColumnVectors; j++)
      unpack_scales(w, number * kColumns + j * W, j, scales, biases, biases + steps * kColumns);
  }
}

// sums (R, kColumns) of R rows and a panel.
template <int R, bool Wide>
MM_KERNEL void multiply(const Inputs& in, const Panel& panel, int64_t steps, int64_t words, float* sums) {
  vf total[R][kColumnVectors];
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 3
    for (int j = 0; j < kColumnVectors; j++) total[i][j] = vf{};
  const int8_t* x = in.bytes;
  const uint8_t* codes = panel.codes;
  const float *scales = panel.scales, *biases = panel.biases, *input_scales = in.scales, *input_sums = in.sums;
  const int64_t row = 4 * words;
  for (int64_t s = 0; s < steps; s++) {
    vi acc[R][kColumnVectors];
#pragma GCC unroll 8
    for (int i = 0; i < R; i++)
#pragma GCC unroll 3
      for (int j = 0; j < kColumnVectors; j++) acc[i][j] = vi{};
    for (int64_t k = 0; k < words; k++, x += 4, codes += kColumns * 4) {
      vi q[kColumnVectors];
#pragma GCC unroll 3
      for (int j = 0; j < kColumnVectors; j++) q[j] = load_words(codes + j * W * 4);
#pragma GCC unroll 8
      for (int i = 0; i < R; i++) {
        const vi word = word_in_all(x + i * row);
#pragma GCC unroll 3
        for (int j = 0; j < kColumnVectors; j++) acc[i][j] = dot<Wide>(acc[i][j], q[j], word);
      }
    }
    x += (kRowsOfTile - 1) * row;
    vf scale[kColumnVectors], bias[kColumnVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kColumnVectors; j++) {
      scale[j] = load(scales + j * W);
      bias[j] = load(biases + j * W);
    }
#pragma GCC unroll 8
    for (int i = 0; i < R; i++) {
      const vf input_scale = all(input_scales[i]), input_sum = all(input_sums[i]);
#pragma GCC unroll 3
      for (int j = 0; j < kColumnVectors; j++) {
        total[i][j] = multiply_add(input_sum, bias[j], total[i][j]);
        total[i][j] = multiply_add(floats(acc[i][j]), scale[j] * input_scale, total[i][j]);
      }
    }
    scales += kColumns, biases += kColumns, input_scales += kRowsOfTile, input_sums += kRowsOfTile;
  }
#pragma GCC unroll 8
  for (int i = 0; i < R; i++)
#pragma GCC unroll 3
    for (int j = 0; j < kColumnVectors; j++) store(sums + i * kColumns + j * W, total[i][j]);
}

template <int R, bool Wide>
MM_INLINE void multiply_rows(int rows, const Inputs& in, const Panel& panel, int64_t steps, int64_t words,
                             float* sums) {
  if constexpr (R > 1)
    if (rows < R) return multiply_rows<R - 1, Wide>(rows, in, panel, steps, words, sums);
  multiply<R, Wide>(in, panel, steps, words, sums);
}

// The products of groups with many rows each, whose weights are alike but for where they lie.
struct MatrixProduct {
  const mm_product_call* call;
  const Group* groups;
  int64_t count;              // of groups
  const int64_t* first_tile;  // of each group
  int8_t* bytes;
  float *scales, *sums;
  int64_t cols, rows, steps, words_in_step;

  Inputs inputs(int64_t tile) const {
    const int64_t before = tile * kRowsOfTile;  // rows
    return {bytes + before * cols, scales + before * steps, sums + before * steps};
  }
  int rows_in(const Group& g, int64_t tile) const { return int(least(kRowsOfTile, g.count - tile * kRowsOfTile)); }

  int64_t memory() const {  // of one job
    return cols * kColumns + 2 * steps * kColumns * sizeof(float) + 2 * W * ceil_div(steps, W) * W * sizeof(float) + 64;
  }

  void columns(char* memory, int64_t group, int64_t panel_number, int64_t part, int64_t parts) const {
    const Group& g = groups[group];
    const int64_t first = panel_number * kColumns;
    Panel panel;
    with_codes(g.weight, [&](auto kind) {
      panel.codes = codes_of_panel<decltype(kind)>(g.weight, panel_number, reinterpret_cast<uint8_t*>(memory));
    });
    scales_of_panel(g.weight, panel_number, reinterpret_cast<float*>(memory + cols * kColumns), &panel);
    const int64_t tiles = ceil_div(g.count, kRowsOfTile);
    alignas(64) float result[kRowsOfTile * kColumns], no_bias[kColumns] = {};
    const bool whole = rows - first >= kColumns;
    const float* bias = call->bias ? call->bias + first : no_bias;
    for (int64_t t = tiles * part / parts; t < tiles * (part + 1) / parts; t++) {
      const int count = rows_in(g, t);
      const Inputs in = inputs(first_tile[group] + t);
      for (int i = 0; i < count; i++) await_result(*call, g.rows[t * kRowsOfTile + i], first, kColumns);
      if (kWideDiffers && g.weight.bits == 8)
        multiply_rows<kRowsOfTile, kWideDiffers>(count, in, panel, steps, words_in_step, result);
      else
        multiply_rows<kRowsOfTile, false>(count, in, panel, steps, words_in_step, result);
      for (int i = 0; i < count; i++)
        if (whole) finish_whole<kColumns>(*call, g.rows[t * kRowsOfTile + i], first, bias, result + i * kColumns);
        else finish(*call, g.rows[t * kRowsOfTile + i], first, rows - first, result + i * kColumns);
    }
  }
};

// How many parts rows are divided into, each of which goes through all columns before the next.
static int64_t parts_of_rows(const mm_weight& w, int64_t rows, int64_t jobs) {
  const bool few = mm::threads() > 1 && jobs < 2 * mm::threads();
  const int64_t parts = few ? least(ceil_div(rows, kLeastRows), mm::threads()) : 1;
  return w.kind == MM_AFFINE_PACKED ? most(parts, ceil_div(rows * w.cols, kInputBytes)) : parts;
}

static int32_t multiply_many_rows(const Group* groups, int64_t count, const mm_product_call* c) {
  if (!count) return MM_OK;
  const mm_weight& w = groups[0].weight;
  Scratch<int64_t> first_tile(count + 1);
  if (!first_tile) return MM_NO_MEMORY;
  int64_t tiles = 0, most = 0;
  for (int64_t g = 0; g < count; g++) {
    first_tile.get()[g] = tiles;
    tiles += ceil_div(groups[g].count, kRowsOfTile);
    most = groups[g].count > most ? groups[g].count : most;
  }
  const int64_t steps = w.cols / step_of(w), panels = ceil_div(w.rows, kColumns);
  Scratch<int8_t> bytes(tiles * kRowsOfTile * w.cols);
  Scratch<float> scales(2 * tiles * kRowsOfTile * steps);
  if (!bytes || !scales) return MM_NO_MEMORY;
  float* sums = scales.get() + tiles * kRowsOfTile * steps;
  const MatrixProduct p = {c,      groups, count, first_tile.get(), bytes.get(), scales.get(), sums,
                           w.cols, w.rows, steps, step_of(w) / 4};
  mm::parallel(count == 1 ? ceil_div(tiles, kTilesOfJob) : count, [&](int64_t job) {
    const int64_t group = count == 1 ? 0 : job;
    const Group& g = groups[group];
    const int64_t all = ceil_div(g.count, kRowsOfTile), first = count == 1 ? job * kTilesOfJob : 0;
    for (int64_t t = first; t < (count == 1 ? least(first + kTilesOfJob, all) : all); t++)
      quantise_tile(*c, w, g.rows + t * kRowsOfTile, p.rows_in(g, t), p.inputs(first_tile.get()[group] + t));
  });
  const int64_t jobs = count * panels, parts = parts_of_rows(w, most, jobs);
  const bool done = jobs_with_memory(jobs * parts, p.memory(), [&](char* memory, int64_t job) {
    p.columns(memory, job % jobs / panels, job % panels, job / jobs, parts);
  });
  return done ? MM_OK : MM_NO_MEMORY;
}

}  // namespace
