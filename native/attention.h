// Attention with a streaming softmax: keys in blocks, whose weighted values are joined one block after the other.
//
// A job takes some queries of one (batch, key head), those of all its heads side by side, past all blocks; where there
// are too few jobs, each takes one block, and they are joined in the same order. Blocks begin at the same keys always,
// and hidden ones weigh exactly 0: the bits of a result depend on nothing but its query, the keys that it sees and their
// values.
#pragma once
#include "attention_tile.h"
#include "pool.h"

namespace {

constexpr int64_t kQueriesPerJob = 256;      // they share what is packed of a block
constexpr int64_t kMostQueriesOfSplit = 64;  // of a (batch, key head) whose keys are split between threads

// For some queries: the greatest score so far, the sum of weights relative to it, and of weighted values.
struct Sums {
  float *most, *total, *values;
};

struct Job {
  const mm_attention_call* call;
  int64_t batch, kv, first, count;  // queries
  int64_t columns;                  // of values, in whole vectors

  int64_t shared() const { return call->heads / call->kv_heads; }
  int64_t head(int64_t query) const { return kv * shared() + (first + query) % shared(); }
  int64_t row(int64_t query) const { return (first + query) / shared(); }
  int64_t tiles() const { return ceil_div(count, kQueries); }
  // How many keys a query sees; all, where some would see none.
  int64_t sees(int64_t query) const {
    return call->causal && call->length <= call->keys ? call->keys - call->length + row(query) + 1 : call->keys;
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
      : block(ceil_div(least(job.call->keys, kKeys), W) * W),
        queries(ceil_div(job.tiles() * kQueries * job.call->width, W) * W),
        memory(queries + block * (job.call->width + job.columns) + kQueries * (kScoresApart + job.columns + 2) + 2 * W) {}
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

// Scores of R queries against n keys from `key` on -> their weights, sums and weighted values.
template <int R>
static void attend_tile(const Job& job, const Workspace& w, int64_t query, int64_t key, int64_t keys, int64_t n,
                        const Sums& into) {
  const mm_attention_call& c = *job.call;
  float* scores = w.scores(job);
  panels_product<R, 1, R>(c.width, w.q() + query * c.width, w.k(), c.width, keys, n, scores, kScoresApart);
  const int64_t rows = least(R, job.count - query);
  for (int64_t i = 0; i < rows; i++) {
    float* mine = scores + i * kScoresApart;
    if (c.mask_type) apply_mask(job, query + i, key, n, mine);
    if (c.causal) {
      const int64_t seen = c.keys - c.length + job.row(query + i) + 1 - key;
      if (seen < n) fill(mine, seen > 0 ? seen : 0, n, kMasked);
    }
    into.most[i] = greatest_score(mine, n);
  }
  for (int64_t i = 0; i < rows; i++) into.total[i] = weigh(scores + i * kScoresApart, n, into.most[i]);
  panels_product<R, kScoresApart, 1>(n, scores, w.v(job), keys, job.columns, job.columns, into.values, job.columns);
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

static void attend_tile_of(int rows, const Job& job, const Workspace& w, int64_t query, int64_t key, int64_t keys,
                           int64_t n, const Sums& into) {
  switch (rows) {
    case 1: return attend_tile<1>(job, w, query, key, keys, n, into);
    case 2: return attend_tile<2>(job, w, query, key, keys, n, into);
    case 4: return attend_tile<4>(job, w, query, key, keys, n, into);
    default: return attend_tile<kQueries>(job, w, query, key, keys, n, into);
  }
}

static void clear(const Job& job, const Sums& s, int rows) {
  for (int i = 0; i < rows; i++) s.most[i] = kLowest, s.total[i] = 0;
  memset(s.values, 0, rows * job.columns * sizeof(float));
}

// One block of keys for all queries of a job; `fresh` where the sums are of nothing yet.
static void attend_block(const Job& job, const Workspace& w, int64_t key, const Sums& sums, bool fresh) {
  const mm_attention_call& c = *job.call;
  const int64_t keys = least(least(c.keys, job.sees(job.count - 1)) - key, kKeys);
  if (keys > 0) {
    pack_keys(c.k + job.batch * c.k_strides[0] + job.kv * c.k_strides[1] + key * c.k_strides[2], c.k_strides[2], keys,
              c.width, w.k());
    pack_values(c.v + job.batch * c.v_strides[0] + job.kv * c.v_strides[1] + key * c.v_strides[2], c.v_strides[2], keys,
                c.value_width, w.v(job));
  }
  for (int64_t tile = 0; tile < job.tiles(); tile++) {
    const int64_t query = tile * kQueries;
    const int rows = tile_rows(job, query);
    const Sums mine = of_tile(job, sums, tile);
    const int64_t n = least(keys, job.sees(least(query + rows, job.count) - 1) - key);
    if (n <= 0) {
      if (fresh) clear(job, mine, rows);
    } else if (fresh) {
      attend_tile_of(rows, job, w, query, key, keys, n, mine);
    } else {
      attend_tile_of(rows, job, w, query, key, keys, n, w.sums(job));
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
  for (int64_t key = 0; key < job.call->keys; key += kKeys) attend_block(job, w, key, sums, key == 0);
  write_result(job, sums);
  return true;
}

// The blocks of one job on several threads; then they are joined as `attend` does it.
static bool attend_in_parts(const Job& job) {
  const int64_t blocks = ceil_div(job.call->keys, kKeys), step = job.numbers_of_sums();
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
    for (int64_t i = 0; i < pairs; i++)
      if (!attend_in_parts({c, i / c->kv_heads, i % c->kv_heads, 0, queries, columns})) return MM_NO_MEMORY;
    return MM_OK;
  }
  const int64_t step = queries_per_job(queries, pairs), parts = ceil_div(queries, step);
  bool failed = false;
  mm::parallel(pairs * parts, [&](int64_t i) {
    const int64_t pair = i / parts, first = i % parts * step;
    if (!attend({c, pair / c->kv_heads, pair % c->kv_heads, first, least(step, queries - first), columns}))
      __atomic_store_n(&failed, true, __ATOMIC_RELAXED);
  });
  return failed ? MM_NO_MEMORY : MM_OK;
}

}  // namespace
