// The C interface of the kernels, as mlx_mm/backend/native/calls.py has it.
//
// All matrices are row-major float32 unless they say otherwise; strides count numbers, not bytes. Functions return MM_OK,
// or another status and then have written nothing that counts. They may be called by several threads at once.
#pragma once
#include <stdint.h>

#define MM_VERSION 1  // of this interface

#ifdef __cplusplus
extern "C" {
#endif

enum { MM_OK = 0, MM_NO_MEMORY = 1, MM_UNSUPPORTED = 2 };

enum { MM_FLOAT32 = 0, MM_FLOAT16 = 1, MM_BFLOAT16 = 2 };

enum { MM_NONE = 0, MM_GELU_ERF = 1, MM_GELU_TANH = 2, MM_QUICK_GELU = 3, MM_SILU = 4, MM_RELU = 5 };

// How a weight (rows, cols) is stored, of which each product takes the transpose.
enum {
  MM_PACKED = 0,   // float32 by mm_pack: ceil(rows / panel) panels of (cols, panel), the last filled up with zeros
  MM_ROWS = 1,     // rows of `type`
  MM_AFFINE = 2,   // MLX's: `bits` of 2, 3, 4, 5, 6 or 8 as a little-endian stream in each row; scale * q + bias,
                   // a scale and a bias of `type` for each group
  MM_MXFP4 = 3,    // e2m1, groups of 32 with e8m0 scales (bytes), no biases
  MM_MXFP8 = 4,    // e4m3, groups of 32 with e8m0 scales
  MM_NVFP4 = 5,    // e2m1, groups of 16 with e4m3 scales
  MM_AFFINE_PACKED = 6,  // MM_AFFINE of 4 or 8 bits whose words, and scales and biases that are float32, went through
                         // mm_pack, all as if they were float32. Not with MM_EXACT, and MM_FINE is MM_FAST
};

typedef struct {
  int32_t kind, type, bits, group_size;
  int64_t rows, cols;
  const void *data, *scales, *biases;
} mm_weight;

// What a product with a quantised weight may do to its inputs.
enum {
  MM_EXACT = 0,  // nothing: the weight becomes float32, a panel at a time
  MM_FAST = 1,   // 8-bit inputs, with a scale for each row and group
  MM_FINE = 2,   // 16-bit inputs where there are few rows, else as MM_FAST
};

typedef struct {
  const float* x;         // (m, cols), its rows ldx apart
  int64_t m, ldx;
  const float* bias;      // (rows,) or null
  const float* residual;  // (m, rows), its rows ldr apart, or null; may be y itself
  int64_t ldr;
  float* y;               // (m, rows), its rows ldy apart: activation(x wT + bias) + residual
  int64_t ldy;
  int32_t activation, inputs;
} mm_product_call;

// softmax(q kT scale + mask) v for each batch and head; heads is a multiple of kv_heads.
typedef struct {
  const float *q, *k, *v;
  float* out;
  int64_t batch, heads, kv_heads, length, keys, width, value_width;
  int64_t q_strides[3], k_strides[3], v_strides[3], out_strides[3];  // of batch, head and row; numbers lie together
  const void* mask;         // null, or bytes that are 0 (hidden) or 1, or float32 to be added
  int64_t mask_strides[4];  // of batch, head, row and key; 0 where one serves all
  int32_t mask_type;        // 0 none, 1 bytes, 2 float32
  int32_t causal;           // the last query sees the last key
  float scale;
} mm_attention_call;

// Turns pairs of the first `dims` numbers of each head; the others are copied. x and y may be the same.
typedef struct {
  const float *x, *cos, *sin;
  float* y;
  int64_t batch, length, heads, width, dims;
  int64_t x_strides[3], y_strides[3];  // of batch, row and head
  int64_t table_strides[2];            // of batch (0: one for all) and row; (…, dims / 2)
  int32_t neighbours;                  // pairs are 2j and 2j + 1, else j and j + dims / 2
} mm_rotate_call;

// Frame i of a sound, from sample i * hop on, times a window, its power in each bin, summed under each filter: in double
// precision, but for spectra that are rounded to single. size: of a frame, a power of 2 from 4 to 65536.
typedef struct {
  const float* samples;   // (frames - 1) * hop + size of them
  const double* window;   // (size,)
  const double* cosines;  // (size,) of 2 pi k / size
  int64_t frames, hop, size, filters;
  int64_t first_bin, last_bin;      // the filters lie in these, the last one not counted
  const int64_t *starts, *lengths;  // (filters,) the bins of each
  const double* weights;            // of all, one filter after the other
  double* y;                        // (frames, filters)
} mm_mel_call;

// A weight (rows, groups * size) as codes of `bits`, each row of each group on a grid of its own: scale * code + bias.
// size: a multiple of 32, 128 at most. Of the ranges that leave out shares of a group's own at both ends, and of what
// refits the best of them so many times, a grid is the one whose errors, squared and weighed, are least.
//
// Where a group g has `within` (size, size), errors are compensated: its column j is rounded at x + change + the sum of
// within[i][j] times the errors of its columns i before it, and x becomes its errors. change is the errors of columns
// from earlier[g] on times before, of (size, earlier columns) packed by mm_pack, and the grid is that of
// x + change apart, where apart (size, size) is 0 below its diagonal; without `before` there is no change.
typedef struct {
  float* x;
  const int64_t* earlier;                         // (groups,)
  const float *const *before, *const *apart, *const *within;  // of each group, or null
  const float* shares;  // (groups, size) by which columns weigh, 1 together in each group
  const float* cuts;    // (pairs, 2): below, above
  uint32_t* packed;     // (rows, groups * size * bits / 32)
  float *scales, *biases;  // (rows, groups), numbers of `type`
  int64_t rows, groups, size, pairs;
  int32_t refits, bits, type;
} mm_round_call;

int32_t mm_version(void);
// Names of the instruction sets that this processor has, best first, separated by spaces.
const char* mm_instruction_sets(void);
int32_t mm_choose(const char* instruction_set);
void mm_set_threads(int32_t count);
int32_t mm_threads(void);

int64_t mm_panel(void);
int32_t mm_pack(const mm_weight* weight, float* packed);
int32_t mm_product(const mm_weight* weight, const mm_product_call* call);
// Row i of x (m, cols) times the weight number experts[i] of `count`, which lie one after the other, -> row i of y.
int32_t mm_experts(const mm_weight* weights, int64_t count, const int32_t* experts, const mm_product_call* call);
int32_t mm_attention(const mm_attention_call* call);
// (rows, cols); weight and bias may be null. With a residual (rows, cols), y = norm(x) + residual.
int32_t mm_layer_norm(const float* x, int64_t rows, int64_t cols, const float* weight, const float* bias, float eps,
                      const float* residual, float* y);
int32_t mm_rms_norm(const float* x, int64_t rows, int64_t cols, const float* weight, float eps, const float* residual,
                    float* y);
int32_t mm_activation(int32_t kind, const float* x, int64_t count, float* y);
// y (rows, cols) = activation(gate) * up, whose rows are ldg and ldu apart.
int32_t mm_gated(int32_t kind, const float* gate, int64_t ldg, const float* up, int64_t ldu, int64_t rows, int64_t cols,
                 float* y);
int32_t mm_rotate(const mm_rotate_call* call);
// (batch, height, width, channels) -> (batch, height / size * width / size, size * size * channels).
int32_t mm_patches(const float* x, int64_t batch, int64_t height, int64_t width, int64_t channels, int64_t size, float* y);
// What this machine can do at most on the pool's threads, measured now (0.1 to 0.5 s): 0 float32 multiply-adds in GF/s,
// 1 sums of products of 8-bit numbers in Gop/s, 2 reading of memory in GB/s. 0 of another kind.
double mm_peak(int32_t kind);
// Rows order[0 … count) of each x (rows, cols) of a batch.
int32_t mm_take_rows(const float* x, int64_t batch, int64_t rows, int64_t cols, const int32_t* order, int64_t count,
                     float* y);
int32_t mm_mel(const mm_mel_call* call);
int32_t mm_round(const mm_round_call* call);
// y[q * rows + r] = row r of codes (rows, width) times 128 high + low of query q, (queries, width) each: exactly but for
// the rounding to float32. width: a multiple of 64, 65536 at most; inputs are of -127 to 127, codes any bytes.
int32_t mm_scan(const int8_t* codes, int64_t rows, int64_t width, const int8_t* high, const int8_t* low, int64_t queries,
                float* y);

#ifdef __cplusplus
}
#endif
