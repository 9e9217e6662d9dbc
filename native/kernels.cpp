// All kernels, for the instruction set that the compiler is told to use. MM_SET names it.
#include "kernels.h"

#include "attention.h"
#include "elementwise.h"
#include "experts.h"
#include "grids.h"
#include "mel.h"
#include "norms.h"
#include "peaks.h"
#include "product.h"
#include "rotary.h"
#include "rows.h"
#include "scan.h"

#define MM_JOIN(a, b) a##b
#define MM_NAME(set) MM_JOIN(kernels_, set)

namespace mm {
extern const Kernels MM_NAME(MM_SET);
const Kernels MM_NAME(MM_SET) = {kPanel,     pack,  product, experts, attention, layer_norm, rms_norm,
                                 activation, gated, rotate,  patches, peak,      take_rows,  mel,
                                 scan,       round_weight};
}  // namespace mm
