// A few rows times a quantised weight: inputs as two bytes each, and each number of the weight read once.
#pragma once
#include "finish.h"
#include "pool.h"
#include "quantise_inputs.h"

namespace {

constexpr int64_t kFewRows = 4;             // for which the two bytes cost no time, since memory is the limit
constexpr int64_t kBytesPerJob = 1 << 17;   // of a weight
constexpr int64_t kMostNumbers = 64;        // of one row that a job computes
constexpr int kAtOnce = 4;                  // rows of a weight
// Bytes that are asked for before they are needed, one after the other as they lie, which a processor goes on with.
constexpr int64_t kBytesAhead = 1 << 14;
constexpr int64_t kRowsAhead = 16;  // the same of scales and biases
constexpr int64_t kLine = 64;       // bytes that memory hands over together

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

// Rows of a weight, of which N are multiplied at once: N streams of memory, and inputs are loaded once for all.
struct WeightRows {
  const uint8_t* codes;
  int64_t bytes;  // from row to row, and all that a row has
};

// Scales and biases of the rows' steps: as they are stored, one for each step, or as floats in whole vectors.
struct StoredScales {
  const void *scales, *biases;
  int32_t type;
  int64_t first, steps;  // number of the first row's first one, and how many a row has
  vf scale(int64_t n, int64_t s) const { return read(scales, n, s); }
  vf bias(int64_t n, int64_t s) const { return read(biases, n, s); }
  vf read(const void* data, int64_t n, int64_t s) const {
    const int64_t at = first + n * steps + s;
    return type == MM_FLOAT32 ? as_floats(static_cast<const float*>(data) + at, steps - s)
                              : as_floats(static_cast<const uint16_t*>(data) + at, type, steps - s);
  }
};
struct FloatScales {
  const float *scales, *biases;
  int64_t room;  // from row to row
  vf scale(int64_t n, int64_t s) const { return load(scales + n * room + s); }
  vf bias(int64_t n, int64_t s) const { return load(biases + n * room + s); }
};

MM_INLINE bool reads_stored_scales(const mm_weight& w) {
  return w.kind == MM_AFFINE && w.group_size <= kLongestStep && !(kSignedCodes && w.bits == 8);
}

// The last bytes of N rows, filled up with zeros to a block each, if they are fewer.
template <class C, int N>
struct LastBlocks {
  uint8_t bytes[N * C::kBytes] = {};
  explicit LastBlocks(const WeightRows& w) {
    const int64_t left = w.bytes % C::kBytes;
    for (int n = 0; n < N; n++) memcpy(bytes + n * C::kBytes, w.codes + (n + 1) * w.bytes - left, left);
  }
};

template <class C, int N>
MM_INLINE void add_dots(vi (&sum)[N], const vi (&block)[N], const int8_t* inputs) {
#pragma GCC unroll 2
  for (int v = 0; v < C::kVectors; v++) {
    const vi bytes = load_words(inputs + v * 4 * W);
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) sum[n] = dot<C::kWide>(sum[n], codes_in<C>(block[n], v), bytes);
  }
}

// y[r * apart + n] = the dot product of input row r < R and weight row n < N.
template <class C, int R, int N, class Scales>
MM_KERNEL void dots(int64_t steps, int64_t step, const WeightRows& w, const Scales& scales, const Row* rows, float* y,
                    int64_t apart) {
  const int64_t blocks = W * step / C::kCodes;         // for W steps
  const int shift = __builtin_ctzll(blocks * 16) - 4;  // of a lane's number among those of W steps -> step
  int64_t whole = w.bytes / C::kBytes;                 // blocks that are still to come
  const int64_t all_blocks = ceil_div(w.bytes, C::kBytes);
  vf acc[R][N] = {};
  const uint8_t* p = w.codes;
  const uint8_t* ahead = p + most(N * w.bytes, kBytesAhead);
  const int8_t *high[R], *low[R];
#pragma GCC unroll 2
  for (int r = 0; r < R; r++) high[r] = rows[r].high, low[r] = rows[r].low;
  const LastBlocks<C, N> last(w);
  int64_t apart_now = w.bytes;
  int64_t at = 0;  // block
  for (int64_t s = 0; s < steps; s += W) {
    vf scale[R][N];
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) {
      const vf of_weight = scales.scale(n, s), bias = scales.bias(n, s);
#pragma GCC unroll 2
      for (int r = 0; r < R; r++) {
        scale[r][n] = of_weight * load(rows[r].scales + s);
        acc[r][n] = multiply_add(bias, load(rows[r].sums + s), acc[r][n]);
      }
    }
    vi lane = lane_numbers();
    const int64_t end = least(at + blocks, all_blocks);
    while (at < end) {
      if (at == whole) p = last.bytes, apart_now = C::kBytes;
      for (const int64_t stop = at < whole ? least(end, whole) : end; at < stop; at++, p += C::kBytes, lane += W) {
        const vi step_number = lane >> shift;
        const int64_t k = at * C::kCodes;
        vi block[N];
#pragma GCC unroll 4
        for (int n = 0; n < N; n++) {
          block[n] = load_block<C>(p + n * apart_now);
          __builtin_prefetch(ahead, 0, 2);
          ahead += C::kBytes;
        }
#pragma GCC unroll 2
        for (int r = 0; r < R; r++) {  // rows side by side: one alone is a long chain of what waits for each other
          vi sum[N] = {};
          add_dots<C, N>(sum, block, high[r] + k);
#pragma GCC unroll 4
          for (int n = 0; n < N; n++) sum[n] <<= 7;
          add_dots<C, N>(sum, block, low[r] + k);
#pragma GCC unroll 4
          for (int n = 0; n < N; n++)
            acc[r][n] = multiply_add(floats(sum[n]), permute(scale[r][n], step_number), acc[r][n]);
        }
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int n = 0; n < N; n++) y[r * apart + n] = sum(acc[r][n]);
}

// The same of `count` input rows.
template <class C, int N, class Scales>
MM_INLINE void dots_of_rows(const mm_weight& w, const WeightRows& own, const Scales& scales, const Row* rows,
                            int64_t count, float* y) {
  const int64_t step = step_of(w), steps = w.cols / step;
  for (; count >= 2; count -= 2, rows += 2, y += 2 * kMostNumbers)
    dots<C, 2, N>(steps, step, own, scales, rows, y, kMostNumbers);
  if (count) dots<C, 1, N>(steps, step, own, scales, rows, y, kMostNumbers);
}

// Ask for the scales and biases of `count` rows.
MM_INLINE void prefetch_scales(const mm_weight& w, int64_t first, int64_t count) {
  if (w.kind != MM_AFFINE) return;  // those of others are a byte each
  const int64_t bytes = w.cols / w.group_size * (w.type == MM_FLOAT32 ? 4 : 2);
  const char *scales = static_cast<const char*>(w.scales), *biases = static_cast<const char*>(w.biases);
  for (int64_t at = first * bytes; at < (first + count) * bytes; at += kLine) {
    __builtin_prefetch(scales + at, 0, 2);
    __builtin_prefetch(biases + at, 0, 2);
  }
}

// The same of N rows of a weight from number `first` on; `memory` for scales.
template <class C, int N>
MM_INLINE void dots_of_weight(const mm_weight& w, int64_t first, const Row* rows, int64_t count, float* memory,
                              float* y) {
  const int64_t bytes = words_per_row(w) * 4, room = room_for_steps(w);
  const WeightRows own = {static_cast<const uint8_t*>(w.data) + first * bytes, bytes};
  prefetch_scales(w, first + kRowsAhead, N);
  if constexpr (N > 1 && !C::kTable)  // not for the few rows at an end: less to compile
    if (reads_stored_scales(w)) {
      const int64_t steps = w.cols / w.group_size;
      const StoredScales stored = {w.scales, w.biases, w.type, first * steps, steps};
      return dots_of_rows<C, N>(w, own, stored, rows, count, y);
    }
  for (int i = 0; i < N; i++) scales_of_row(w, first + i, memory + i * room, memory + (N + i) * room);
  dots_of_rows<C, N>(w, own, FloatScales{memory, memory + N * room, room}, rows, count, y);
}

// Numbers `first` to `first + count` of each row of a group.
static void multiply_few(const mm_product_call& c, const Group& g, const Row* rows, int64_t first, int64_t count,
                         float* memory) {
  const mm_weight& w = g.weight;
  float* y = memory + 2 * kAtOnce * room_for_steps(w);
  with_codes(w, [&](auto kind) {
    using C = decltype(kind);
    int64_t n = 0;
    for (; n + kAtOnce <= count; n += kAtOnce)
      dots_of_weight<C, kAtOnce>(w, first + n, rows, g.count, memory, y + n);
    for (; n < count; n++) dots_of_weight<C, 1>(w, first + n, rows, g.count, memory, y + n);
  });
  for (int64_t r = 0; r < g.count; r++) finish(c, g.rows[r], first, count, y + r * kMostNumbers);
}

// Jobs that read memory in their order: each thread takes those of a range, so that what it asks for ahead is its own
// next job, and then those that others have left. body(memory, job) with `size` bytes of memory, false where there is not
// enough of it.
template <class Body>
MM_INLINE bool jobs_in_ranges(int64_t jobs, int64_t size, const Body& body) {
  const int64_t ranges = least(jobs, mm::threads());
  Scratch<int64_t> next(ranges);
  if (!next) return false;
  for (int64_t i = 0; i < ranges; i++) next.get()[i] = jobs * i / ranges;
  int64_t done = 0;
  mm::parallel(ranges, [&](int64_t own) {
    Scratch<char> memory(size);
    if (!memory) return;
    for (int64_t i = 0; i < ranges; i++) {
      const int64_t range = (own + i) % ranges, end = jobs * (range + 1) / ranges;
      for (int64_t job; (job = __atomic_fetch_add(next.get() + range, 1, __ATOMIC_RELAXED)) < end;) {
        body(memory.get(), job);
        __atomic_fetch_add(&done, 1, __ATOMIC_RELAXED);
      }
    }
  });
  return done == jobs;
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
  const int64_t fitting = least(kBytesPerJob / (words_per_row(w) * 4 * kAtOnce) * kAtOnce + kAtOnce, kMostNumbers);
  const int64_t numbers = least(fitting, ceil_div(w.rows, mm::threads())), blocks = ceil_div(w.rows, numbers);
  const int64_t memory = (2 * kAtOnce * steps + most * kMostNumbers) * sizeof(float);
  const bool done = jobs_in_ranges(count * blocks, memory, [&](char* own, int64_t job) {
    const int64_t g = job / blocks, first = job % blocks * numbers;
    multiply_few(*c, groups[g], rows.get() + first_row.get()[g], first, least(numbers, w.rows - first),
                 reinterpret_cast<float*>(own));
  });
  return done ? MM_OK : MM_NO_MEMORY;
}

}  // namespace
