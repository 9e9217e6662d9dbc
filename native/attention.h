// Attention with a streaming softmax: keys in blocks, whose weighted values are joined one block after the other.
//
// A job takes some queries of one (batch, key head), those of all its heads side by side, past all blocks; where there
// are too few jobs, each takes one block, and they are joined in the same order. Blocks begin at the same keys always,
// and hidden ones weigh exactly 0: the bits of a result depend on nothing but its query, the keys that it sees and
// their values.
#pragma once
#include "attention_tile.h"
#include "pool.h"

namespace {

constexpr int64_t kQueriesPerJob = 1024;      // they share what is packed of a block
constexpr int64_t kFewTiles = 4;             // that take values where they lie: packing them costs more
constexpr int64_t kMostQueriesOfSplit = 64;  // of a (batch, key head) whose keys are split between threads

// For some queries: the greatest score so far, the sum of weights relative to it, and of weighted values.
struct Sums {
  float *most, *total, *values;
};

struct Job {
  const mm_attention_call* call;
  int64_t batch, kv, first, count;  // queries
  int64_t columns;                  // of values, in whole vectors
  int64_t keys;                     // up to the last that is not hidden from all
  bool masked;                      // some of these are hidden

  int64_t shared() const { return call->heads / call->kv_heads; }
  int64_t head(int64_t query) const { return kv * shared() + (first + query) % shared(); }
  int64_t row(int64_t query) const { return (first + query) / shared(); }
  int64_t tiles() const { return ceil_div(count, kQueries); }
  // How many keys a query sees; all, where some would see none.
  int64_t sees(int64_t query) const {
    return call->causal && call->length <= call->keys ? call->keys - call->length + row(query) + 1 : keys;
  }

  int64_t numbers_of_sums() const { return tiles() * kQueries * (columns + 2) + W; }
  Sums sums(float* memory) const {
    const int64_t padded = tiles() * kQueries;
    return {memory, memory + padded, memory + 2 * padded + W};
  }
};

MM_INLINE Sums of_tile(const Job& job, const Sums& s, int64_t tile) {
  return {s.most + tile * kQueries, s.total + tile * kQueries, s.values + tile * kQueries * job.columns};
}

// What one thread needs: the queries packed, one block of keys and values, scores and sums of a tile.
struct Workspace {
  explicit Workspace(const Job& job)
      : block(ceil_div(least(job.keys, kKeys), W) * W),
        queries(ceil_div(job.tiles() * kQueries * job.call->width, W) * W),
        memory(queries + block * (job.call->width + job.columns) + kQueries * (kScoresApart + job.columns + 2) +
               2 * W) {}
  float* q() const { return memory.get(); }
  float* k() const { return q() + queries; }
  float* v(const Job& job) const { return k() + block * job.call->width; }
  float* scores(const Job& job) const { return v(job) + block * job.columns; }
  Sums sums(const Job& job) const {
    float* free = scores(job) + kQueries * kScoresApart;
    return {free, free + kQueries + W, free + 2 * (kQueries + W)};
  }

  int64_t block, queries;
  Scratch<float> memory;
};

struct Block {
  int64_t first, count;  // keys
  Panels keys, values;
};

MM_INLINE void apply_mask(const Job& job, int64_t query, int64_t key, int64_t n, float* scores) {
  const mm_attention_call& c = *job.call;
  const int64_t* step = c.mask_strides;
  const int64_t at = job.batch * step[0] + job.head(query) * step[1] + job.row(query) * step[2] + key * step[3];
  if (c.mask_type == 1) {
    const uint8_t* mask = static_cast<const uint8_t*>(c.mask) + at;
    if (step[3] == 1) return hide(scores, mask, n);
    for (int64_t s = 0; s < n; s++) scores[s] = mask[s * step[3]] ? scores[s] : kMasked;
  } else {
    const float* mask = static_cast<const float*>(c.mask) + at;
    if (step[3] == 1) return add(scores, mask, n);
    for (int64_t s = 0; s < n; s++) scores[s] += mask[s * step[3]];
  }
}

// Scores of R queries against the first n keys of a block -> their weights, sums and weighted values.
template <int R>
static void attend_tile(const Job& job, const Workspace& w, const Block& block, int64_t query, int64_t n,
                        const Sums& into) {
  const mm_attention_call& c = *job.call;
  float* scores = w.scores(job);
  panels_product<R, 1, R>(c.width, w.q() + query * c.width, block.keys, n, scores, kScoresApart);
  const int64_t rows = least(R, job.count - query);
  for (int64_t i = 0; i < rows; i++) {
    float* mine = scores + i * kScoresApart;
    if (job.masked) apply_mask(job, query + i, block.first, n, mine);
    if (c.causal) {
      const int64_t seen = c.keys - c.length + job.row(query + i) + 1 - block.first;
      if (seen < n) fill(mine, seen > 0 ? seen : 0, n, kMasked);
    }
    into.most[i] = greatest_score(mine, n);
  }
  for (int64_t i = 0; i < rows; i++) into.total[i] = weigh(scores + i * kScoresApart, n, into.most[i]);
  panels_product<R, kScoresApart, 1>(n, scores, block.values, job.columns, into.values, job.columns);
}

MM_INLINE int tile_rows(const Job& job, int64_t query) {
  const int64_t left = job.count - query;
  return left >= kQueries ? kQueries : left > 4 ? kQueries : left > 2 ? 4 : int(left);
}

static void pack_queries(const Job& job, float* packed) {
  const mm_attention_call& c = *job.call;
  const float* rows[kQueries];
  for (int64_t query = 0; query < job.count; query += kQueries) {
    const int count = tile_rows(job, query);
    for (int i = 0; i < count; i++) {
      const int64_t mine = least(query + i, job.count - 1);
      rows[i] = c.q + job.batch * c.q_strides[0] + job.head(mine) * c.q_strides[1] + job.row(mine) * c.q_strides[2];
    }
    transpose(rows, count, c.width, c.scale, packed + query * c.width);
  }
}

// `to` and `from` become one: the sums of both, relative to the greater maximum.
static void join(const Job& job, const Sums& to, const Sums& from, int rows) {
  for (int first = 0; first < rows; first += W) {
    const int count = int(least(W, rows - first));
    const vf a = load_some(to.most + first, count), b = load_some(from.most + first, count);
    const vf most = max(a, b), keep = exp_of_negative(a - most), add = exp_of_negative(b - most);
    for (int i = 0; i < count; i++) {
      const int row = first + i;
      to.most[row] = most[i];
      to.total[row] = to.total[row] * keep[i] + from.total[row] * add[i];
      float *d = to.values + row * job.columns, *s = from.values + row * job.columns;
      for (int64_t j = 0; j < job.columns; j += W) store(d + j, load(d + j) * keep[i] + load(s + j) * add[i]);
    }
  }
}

static void attend_tile_of(int rows, const Job& job, const Workspace& w, const Block& block, int64_t query, int64_t n,
                           const Sums& into) {
  switch (rows) {
    case 1: return attend_tile<1>(job, w, block, query, n, into);
    case 2: return attend_tile<2>(job, w, block, query, n, into);
    case 4: return attend_tile<4>(job, w, block, query, n, into);
    default: return attend_tile<kQueries>(job, w, block, query, n, into);
  }
}

static void clear(const Job& job, const Sums& s, int rows) {
  for (int i = 0; i < rows; i++) s.most[i] = kLowest, s.total[i] = 0;
  memset(s.values, 0, rows * job.columns * sizeof(float));
}

static Block pack_block(const Job& job, const Workspace& w, int64_t first) {
  const mm_attention_call& c = *job.call;
  const int64_t count = least(job.sees(job.count - 1) - first, kKeys);
  Block block = {first, count, {w.k(), count, 2 * W * c.width, 0}, {w.v(job), job.columns, 2 * W * count, 0}};
  if (count <= 0) return block;
  pack_keys(c.k + job.batch * c.k_strides[0] + job.kv * c.k_strides[1] + first * c.k_strides[2], c.k_strides[2], count,
            c.width, w.k());
  const float* v = c.v + job.batch * c.v_strides[0] + job.kv * c.v_strides[1] + first * c.v_strides[2];
  if (job.tiles() <= kFewTiles && job.columns == c.value_width)
    block.values = {v, job.columns, 2 * W, c.v_strides[2]};
  else
    pack_values(v, c.v_strides[2], count, c.value_width, w.v(job));
  return block;
}

// One block of keys for all queries of a job; `fresh` where the sums are of nothing yet.
static void attend_block(const Job& job, const Workspace& w, int64_t first, const Sums& sums, bool fresh) {
  const Block block = pack_block(job, w, first);
  for (int64_t tile = 0; tile < job.tiles(); tile++) {
    const int64_t query = tile * kQueries;
    const int rows = tile_rows(job, query);
    const Sums mine = of_tile(job, sums, tile);
    const int64_t n = least(block.count, job.sees(least(query + rows, job.count) - 1) - first);
    if (n <= 0) {
      if (fresh) clear(job, mine, rows);
    } else if (fresh) {
      attend_tile_of(rows, job, w, block, query, n, mine);
    } else {
      attend_tile_of(rows, job, w, block, query, n, w.sums(job));
      join(job, mine, w.sums(job), rows);
    }
  }
}

static void write_result(const Job& job, const Sums& sums) {
  const mm_attention_call& c = *job.call;
  for (int64_t query = 0; query < job.count; query++) {
    const float* values = sums.values + query * job.columns;
    float* out = c.out + job.batch * c.out_strides[0] + job.head(query) * c.out_strides[1] +
                 job.row(query) * c.out_strides[2];
    const vf total = all(sums.total[query]);
    int64_t i = 0;
    for (; i + W <= c.value_width; i += W) store(out + i, load(values + i) / total);
    if (i < c.value_width) store_some(out + i, load(values + i) / total, c.value_width - i);
  }
}

// All blocks of one job, one after the other.
static bool attend(const Job& job) {
  const Workspace w(job);
  const Scratch<float> memory(job.numbers_of_sums());
  if (!w.memory || !memory) return false;
  pack_queries(job, w.q());
  const Sums sums = job.sums(memory.get());
  for (int64_t key = 0; key < job.keys; key += kKeys) attend_block(job, w, key, sums, key == 0);
  write_result(job, sums);
  return true;
}

// The blocks of one job on several threads; then they are joined as `attend` does it.
static bool attend_in_parts(const Job& job) {
  const int64_t blocks = ceil_div(job.keys, kKeys), step = job.numbers_of_sums();
  const Scratch<float> memory(blocks * step);
  if (!memory) return false;
  bool failed = false;
  mm::parallel(blocks, [&](int64_t block) {
    const Workspace w(job);
    if (!w.memory) return __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
    pack_queries(job, w.q());
    attend_block(job, w, block * kKeys, job.sums(memory.get() + block * step), true);
  });
  if (failed) return false;
  const Sums sums = job.sums(memory.get());
  for (int64_t block = 1; block < blocks; block++) {
    const Sums more = job.sums(memory.get() + block * step);
    for (int64_t tile = 0; tile < job.tiles(); tile++)
      join(job, of_tile(job, sums, tile), of_tile(job, more, tile), tile_rows(job, tile * kQueries));
  }
  write_result(job, sums);
  return true;
}

// How far the keys of an item reach that a mask for all its heads and queries shows, and whether it hides some before
// that: a text that is padded at its end then costs no more than one without a mask.
struct Seen {
  int64_t keys;
  bool masked;
};

static Seen keys_to_see(const mm_attention_call& c, int64_t item) {
  if (c.mask_type != 1 || c.mask_strides[1] || c.mask_strides[2] || c.causal) return {c.keys, c.mask_type != 0};
  const uint8_t* mask = static_cast<const uint8_t*>(c.mask) + item * c.mask_strides[0];
  int64_t keys = c.keys, shown = 0;
  while (keys && !mask[(keys - 1) * c.mask_strides[3]]) keys--;
  if (!keys) return {c.keys, true};
  while (shown < keys && mask[shown * c.mask_strides[3]]) shown++;
  return {keys, shown < keys};
}

// Queries of one (batch, key head) that a job takes: few enough that all threads have work.
static int64_t queries_per_job(int64_t queries, int64_t pairs) {
  const int64_t wanted = mm::threads() > 1 ? ceil_div(2 * mm::threads(), pairs) : 1;
  const int64_t parts = most(ceil_div(queries, kQueriesPerJob), least(wanted, ceil_div(queries, 4 * kQueries)));
  return ceil_div(ceil_div(queries, parts), kQueries) * kQueries;
}

int32_t attention(const mm_attention_call* c) {
  const int64_t queries = c->length * (c->heads / c->kv_heads), pairs = c->batch * c->kv_heads;
  const int64_t columns = ceil_div(c->value_width, W) * W;
  if (!queries || !pairs) return MM_OK;
  if (!c->keys || !c->width) return MM_UNSUPPORTED;
  if (pairs < mm::threads() && c->keys > kKeys && queries <= kMostQueriesOfSplit) {
    for (int64_t i = 0; i < pairs; i++) {
      const int64_t item = i / c->kv_heads;
      const Seen seen = keys_to_see(*c, item);
      if (!attend_in_parts({c, item, i % c->kv_heads, 0, queries, columns, seen.keys, seen.masked}))
        return MM_NO_MEMORY;
    }
    return MM_OK;
  }
  const int64_t step = queries_per_job(queries, pairs), parts = ceil_div(queries, step);
  bool failed = false;
  mm::parallel(pairs * parts, [&](int64_t i) {
    const int64_t pair = i / parts, first = i % parts * step, item = pair / c->kv_heads;
    const Seen seen = keys_to_see(*c, item);
    if (!attend({c, item, pair % c->kv_heads, first, least(step, queries - first), columns, seen.keys, seen.masked}))
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  return failed ? MM_NO_MEMORY : MM_OK;
}

}  // namespace
