// Mel spectrograms in double precision: a sound in frames, the power of its bins, sums of them under filters.
#pragma once
#include "vector.h"

namespace {

// Frames are transformed together, two in each lane: one is the real and one the imaginary part of the numbers.
constexpr int D = W / 2;
typedef double vd __attribute__((vector_size(D * 8)));
typedef float vs __attribute__((vector_size(D * 4)));

constexpr int64_t kMostPoints = 1 << 16;
constexpr int64_t kSamplesAtOnce = 64;

struct Turns {
  const double* cosines;  // of 2 pi k / count
  int64_t count;
  double cos(int64_t k) const { return cosines[k]; }
  double sin(int64_t k) const { return cosines[k + 3 * (count / 4) < count ? k + 3 * (count / 4) : k - count / 4]; }
};

// Times e^(-i 2 pi k / count).
MM_INLINE void turn(const Turns& turns, int64_t k, vd re, vd im, vd* to_re, vd* to_im) {
  const double c = turns.cos(k), s = turns.sin(k);
  *to_re = re * c + im * s;
  *to_im = im * c - re * s;
}

// n points to the numbers of their bins, in place, by decimation in frequency (Gentleman and Sande, 1966) with a radix
// of 4: in each quarter follow the bins with the same rest of 4.
void transform(vd* re, vd* im, int64_t n, const Turns& turns) {
  if (n == 2) {
    const vd a = re[0], b = im[0];
    re[0] = a + re[1], im[0] = b + im[1];
    re[1] = a - re[1], im[1] = b - im[1];
  }
  if (n <= 2) return;
  const int64_t q = n / 4, step = turns.count / n;
  for (int64_t j = 0; j < q; j++) {
    vd *r = re + j, *i = im + j;
    const vd sum_r = r[0] + r[2 * q], sum_i = i[0] + i[2 * q], gap_r = r[0] - r[2 * q], gap_i = i[0] - i[2 * q];
    const vd odd_r = r[q] + r[3 * q], odd_i = i[q] + i[3 * q], far_r = r[q] - r[3 * q], far_i = i[q] - i[3 * q];
    r[0] = sum_r + odd_r, i[0] = sum_i + odd_i;
    turn(turns, j * step, gap_r + far_i, gap_i - far_r, r + q, i + q);
    turn(turns, 2 * j * step, sum_r - odd_r, sum_i - odd_i, r + 2 * q, i + 2 * q);
    turn(turns, 3 * j * step, gap_r - far_i, gap_i + far_r, r + 3 * q, i + 3 * q);
  }
  for (int64_t part = 0; part < 4; part++) transform(re + part * q, im + part * q, q, turns);
}

// Where `transform` leaves a bin.
MM_INLINE int64_t place_of(int64_t bin, int64_t n) {
  int64_t place = 0;
  for (; n > 2; n /= 4, bin /= 4) place += bin % 4 * (n / 4);
  return place + bin % n;
}

// Rounded to single precision and squared, as spectra of transformers are.
MM_INLINE vd square(vd x) {
  const vd rounded = __builtin_convertvector(__builtin_convertvector(x, vs), vd);
  return rounded * rounded;
}

struct Batch {
  vd *re, *im;        // (size,)
  vd *first, *other;  // (bins,) the power of a lane's two frames
};

// Some samples of each frame at a time, so that the lines they are written to stay in the first cache.
MM_INLINE void take_frames(const mm_mel_call* c, int64_t start, int64_t count, const Batch& batch) {
  double *re = reinterpret_cast<double*>(batch.re), *im = reinterpret_cast<double*>(batch.im);
  if (count < 2 * D) memset(re, 0, c->size * sizeof(vd)), memset(im, 0, c->size * sizeof(vd));
  for (int64_t begin = 0; begin < c->size; begin += kSamplesAtOnce) {
    const int64_t end = least(c->size, begin + kSamplesAtOnce);
    for (int64_t f = 0; f < count; f++) {
      const float* from = c->samples + (start + f) * c->hop;
      double* to = (f % 2 ? im : re) + f / 2;
      for (int64_t t = begin; t < end; t++) to[t * D] = from[t] * c->window[t];
    }
  }
}

// The spectra of two real frames from that of one complex one: its parts that are even and odd about bin 0.
MM_INLINE void powers(const mm_mel_call* c, const Batch& batch) {
  for (int64_t bin = c->first_bin; bin < c->last_bin; bin++) {
    const int64_t a = place_of(bin, c->size), b = place_of((c->size - bin) % c->size, c->size);
    const vd sum_r = batch.re[a] + batch.re[b], gap_r = batch.re[b] - batch.re[a];
    const vd sum_i = batch.im[a] + batch.im[b], gap_i = batch.im[a] - batch.im[b];
    batch.first[bin - c->first_bin] = square(0.5 * sum_r) + square(0.5 * gap_i);
    batch.other[bin - c->first_bin] = square(0.5 * sum_i) + square(0.5 * gap_r);
  }
}

MM_INLINE void filtered(const mm_mel_call* c, int64_t start, int64_t count, const Batch& batch) {
  const double* weight = c->weights;
  for (int64_t m = 0; m < c->filters; m++) {
    vd first = {}, other = {};
    const int64_t from = c->starts[m] - c->first_bin;
    for (int64_t i = 0; i < c->lengths[m]; i++, weight++) {
      first += batch.first[from + i] * *weight;
      other += batch.other[from + i] * *weight;
    }
    for (int64_t f = 0; f < count; f++) c->y[(start + f) * c->filters + m] = f % 2 ? other[f / 2] : first[f / 2];
  }
}

int32_t mel(const mm_mel_call* c) {
  if (c->size < 4 || c->size > kMostPoints || (c->size & (c->size - 1))) return MM_UNSUPPORTED;
  const int64_t bins = c->last_bin - c->first_bin;
  Scratch<vd> space(2 * c->size + 2 * bins);
  if (!space) return MM_NO_MEMORY;
  vd* p = space.get();
  const Batch batch = {p, p + c->size, p + 2 * c->size, p + 2 * c->size + bins};
  const Turns turns = {c->cosines, c->size};
  for (int64_t start = 0; start < c->frames; start += 2 * D) {
    const int64_t count = least(2 * D, c->frames - start);
    take_frames(c, start, count, batch);
    transform(batch.re, batch.im, c->size, turns);
    powers(c, batch);
    filtered(c, start, count, batch);
  }
  return MM_OK;
}

}  // namespace
