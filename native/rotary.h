// Rotary positions: pairs of numbers turned by an angle.
#pragma once
#include "rows.h"

namespace {

// Pairs j and j + half.
static void turn_halves(const float* x, const float* cos, const float* sin, int64_t half, float* y) {
  int64_t j = 0;
  for (; j + W <= half; j += W) {
    const vf a = load(x + j), b = load(x + half + j), c = load(cos + j), s = load(sin + j);
    store(y + j, a * c - b * s);
    store(y + half + j, b * c + a * s);
  }
  const int64_t left = half - j;
  if (!left) return;
  const vf a = load_some(x + j, left), b = load_some(x + half + j, left);
  const vf c = load_some(cos + j, left), s = load_some(sin + j, left);
  store_some(y + j, a * c - b * s, left);
  store_some(y + half + j, b * c + a * s, left);
}

// Pairs 2 j and 2 j + 1.
static void turn_neighbours(const float* x, const float* cos, const float* sin, int64_t half, float* y) {
  const vi sign = ((lanes() & 1) - 1) & INT32_MIN;  // of the first of a pair
  int64_t j = 0;
  for (; j + W / 2 <= half; j += W / 2) {
    const vf v = load(x + 2 * j), s = bits_as_floats(bits_of(load_twice(sin + j)) ^ sign);
    store(y + 2 * j, v * load_twice(cos + j) + swap_neighbours(v) * s);
  }
  for (; j < half; j++) {
    const float a = x[2 * j], b = x[2 * j + 1];
    y[2 * j] = a * cos[j] - b * sin[j];
    y[2 * j + 1] = b * cos[j] + a * sin[j];
  }
}

int32_t rotate(const mm_rotate_call* c) {
  const auto turn = c->neighbours ? turn_neighbours : turn_halves;
  rows_in_parallel(c->batch * c->length, c->heads * c->width, [=](int64_t row) {
    const int64_t b = row / c->length, l = row % c->length, table = b * c->table_strides[0] + l * c->table_strides[1];
    for (int64_t h = 0; h < c->heads; h++) {
      const float* x = c->x + b * c->x_strides[0] + l * c->x_strides[1] + h * c->x_strides[2];
      float* y = c->y + b * c->y_strides[0] + l * c->y_strides[1] + h * c->y_strides[2];
      turn(x, c->cos + table, c->sin + table, c->dims / 2, y);
      if (x != y) memcpy(y + c->dims, x + c->dims, (c->width - c->dims) * sizeof(float));
    }
  });
  return MM_OK;
}

}  // namespace
