// What one instruction set offers. Each has a table of its own, made from the same sources.
#pragma once
#include "mlx_mm_native.h"

namespace mm {

struct Kernels {
  int64_t panel;  // rows of a weight that are packed together
  decltype(&mm_pack) pack;
  decltype(&mm_product) product;
  decltype(&mm_experts) experts;
  decltype(&mm_attention) attention;
  decltype(&mm_layer_norm) layer_norm;
  decltype(&mm_rms_norm) rms_norm;
  decltype(&mm_activation) activation;
  decltype(&mm_gated) gated;
  decltype(&mm_rotate) rotate;
  decltype(&mm_patches) patches;
  decltype(&mm_peak) peak;
  decltype(&mm_take_rows) take_rows;
  decltype(&mm_mel) mel;
  decltype(&mm_scan) scan;
  decltype(&mm_round) round;
};

}  // namespace mm
