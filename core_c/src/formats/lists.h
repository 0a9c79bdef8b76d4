/* The weight formats, a line each: see traits.h. No include guard, since the rows are listed several times. */
/* clang-format off */
#include "formats/f32.h"
#include "formats/f16.h"
#include "formats/bf16.h"
#include "formats/q4_0.h"
#include "formats/q4_1.h"
#include "formats/q5_0.h"
#include "formats/q5_1.h"
#include "formats/q8_0.h"
#include "formats/q4_k.h"
#include "formats/q5_k.h"
#include "formats/q6_k.h"
