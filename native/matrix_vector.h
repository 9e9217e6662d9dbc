// A few rows times a quantised weight: inputs as two bytes each, and each number of the weight read once.
#pragma once
#include "finish.h"
#include "pool.h"
#include "quantise_inputs.h"

namespace {

constexpr int64_t kFewRows = 4;             // for which the two bytes cost no time, since memory is the limit
constexpr int64_t kBytesPerJob = 1 << 16;   // of a weight
constexpr int64_t kMostNumbers = 64;        // of one row that a job computes

// One row: high and low bytes as `codes_in` has the codes, filled up to whole blocks; scales and sums of its steps.
struct Row {
  int8_t *high, *low;
  float *scales, *sums;
};

// Room for the bytes and steps of a row, in whole vectors.
MM_INLINE int64_t room_for_bytes(const mm_weight& w) { return ceil_div(w.cols, 8 * W) * 8 * W; }
MM_INLINE int64_t room_for_steps(const mm_weight& w) { return ceil_div(w.cols / step_of(w), W) * W; }

// As blocks of 4 bits have codes: all even ones of 8 W, then all odd ones.
static void arrange(int8_t* bytes, int64_t room) {
  for (int64_t k = 0; k < room; k += 8 * W) {
    int8_t t[8 * W];
    for (int i = 0; i < 8 * W; i += 16) even_odd(bytes + k + i);
    memcpy(t, bytes + k, sizeof t);
    for (int i = 0; i < 2 * W; i++) memcpy(bytes + k + (i % 2 * W + i / 2) * 4, t + 4 * i, 4);
  }
}

static void quantise_row(const mm_weight& w, const float* x, const Row& row) {
  const int64_t step = step_of(w), steps = w.cols / step, room = room_for_bytes(w);
  for (int64_t s = 0; s < steps; s++)
    quantise_step16(x + s * step, step, row.high + s * step, row.low + s * step, row.scales + s, row.sums + s);
  for (int64_t s = steps; s < room_for_steps(w); s++) row.scales[s] = row.sums[s] = 0;
  memset(row.high + w.cols, 0, room - w.cols);
  memset(row.low + w.cols, 0, room - w.cols);
  if (w.bits == 4) arrange(row.high, room), arrange(row.low, room);
}

// The dot products of R rows and one of a weight, with its scales and biases.
template <class C, int R>
MM_KERNEL void dots(const mm_weight& w, const uint8_t* p, const float* scales, const float* biases, const Row* rows, float* y,
                    int64_t apart) {
  const int64_t step = step_of(w), blocks_in_chunk = W * step / C::kCodes, end = words_per_row(w) * 4;
  const int shift = __builtin_ctzll(step * W / C::kCodes);  // of a lane's number among those of W steps -> step
  vf acc[R] = {}, rest[R] = {};
  int64_t at = 0, k = 0;
  for (int64_t s = 0; s < w.cols / step; s += W) {
    const vf scale = load(scales + s), bias = load(biases + s);
    vf both[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      both[r] = scale * load(rows[r].scales + s);
      rest[r] = multiply_add(bias, load(rows[r].sums + s), rest[r]);
    }
    vi lane = lane_numbers();
    for (int64_t b = 0; b < blocks_in_chunk && at < end; b++, at += C::kBytes, k += C::kCodes, lane += W) {
      const vi block = end - at < C::kBytes ? load_last_block<C>(p + at, end - at) : load_block<C>(p + at);
      __builtin_prefetch(p + at + 1536);
      const vi step_number = lane >> shift;
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        vi sum{};
#pragma GCC unroll 2
        for (int v = 0; v < C::kVectors; v++)
          sum = dot<C::kWide>(sum, codes_in<C>(block, v), load_words(rows[r].high + k + v * 4 * W));
        sum <<= 7;
#pragma GCC unroll 2
        for (int v = 0; v < C::kVectors; v++)
          sum = dot<C::kWide>(sum, codes_in<C>(block, v), load_words(rows[r].low + k + v * 4 * W));
        acc[r] = multiply_add(floats(sum), permute(both[r], step_number), acc[r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++) y[r * apart] = sum(acc[r] + rest[r]);
}

template <class C>
MM_INLINE void dots_of_rows(const mm_weight& w, const uint8_t* p, const float* scales, const float* biases, const Row* rows,
                            int64_t count, float* y, int64_t apart) {
  for (; count >= 4; count -= 4, rows += 4, y += 4 * apart) dots<C, 4>(w, p, scales, biases, rows, y, apart);
  for (; count >= 2; count -= 2, rows += 2, y += 2 * apart) dots<C, 2>(w, p, scales, biases, rows, y, apart);
  if (count) dots<C, 1>(w, p, scales, biases, rows, y, apart);
}

// Numbers `first` to `first + count` of each row of a group.
static void multiply_few(const mm_product_call& c, const Group& g, const Row* rows, int64_t first, int64_t count, float* memory) {
  const mm_weight& w = g.weight;
  const int64_t room = room_for_steps(w), bytes = words_per_row(w) * 4;
  float *scales = memory, *biases = scales + room, *y = biases + room;
  with_codes(w, [&](auto kind) {
    for (int64_t n = first; n < first + count; n++) {
      scales_of_row(w, n, scales, biases);
      dots_of_rows<decltype(kind)>(w, static_cast<const uint8_t*>(w.data) + n * bytes, scales, biases, rows, g.count,
                                   y + n - first, kMostNumbers);
    }
  });
  for (int64_t r = 0; r < g.count; r++) finish(c, g.rows[r], first, count, y + r * kMostNumbers);
}

// The products of groups with few rows each, whose weights are alike but for where they lie.
static int32_t multiply_few_rows(const Group* groups, int64_t count, const mm_product_call* c) {
  if (!count) return MM_OK;
  const mm_weight& w = groups[0].weight;
  int64_t total = 0, most = 0;
  for (int64_t g = 0; g < count; g++) {
    total += groups[g].count;
    most = groups[g].count > most ? groups[g].count : most;
  }
  const int64_t bytes = room_for_bytes(w), steps = room_for_steps(w);
  Scratch<int8_t> codes(2 * total * bytes);
  Scratch<float> scales(2 * total * steps);
  Scratch<Row> rows(total);
  Scratch<int64_t> first_row(count);
  if (!codes || !scales || !rows || !first_row) return MM_NO_MEMORY;
  for (int64_t g = 0, r = 0; g < count; r += groups[g++].count) first_row.get()[g] = r;
  for (int64_t r = 0; r < total; r++)
    rows.get()[r] = {codes.get() + 2 * r * bytes, codes.get() + (2 * r + 1) * bytes, scales.get() + 2 * r * steps,
                     scales.get() + (2 * r + 1) * steps};
  const auto quantise = [&](int64_t g) {
    for (int64_t r = 0; r < groups[g].count; r++)
      quantise_row(w, c->x + groups[g].rows[r] * c->ldx, rows.get()[first_row.get()[g] + r]);
  };
  mm::parallel(count, quantise);
  const int64_t fitting = least(kBytesPerJob / (words_per_row(w) * 4) + 1, kMostNumbers);
  const int64_t numbers = least(fitting, ceil_div(w.rows, mm::threads())), blocks = ceil_div(w.rows, numbers);
  const int64_t memory = (2 * steps + most * kMostNumbers) * sizeof(float);
  const bool done = jobs_with_memory(count * blocks, memory, [&](char* own, int64_t job) {
    const int64_t g = job / blocks, first = job % blocks * numbers;
    multiply_few(*c, groups[g], rows.get() + first_row.get()[g], first, least(numbers, w.rows - first),
                 reinterpret_cast<float*>(own));
  });
  return done ? MM_OK : MM_NO_MEMORY;
}

}  // namespace
