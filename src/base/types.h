/*
 * Scalar types with a meaning. Mixing two address or time domains needs a
 * conversion function with a name.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;
typedef unsigned __int128 u128;
typedef __int128 i128;

typedef u64 gpa_t; /* guest-physical address */
typedef u64 gva_t; /* guest linear address, after segmentation */
typedef i64 vns_t; /* nanoseconds of a machine's virtual clock */

#define VNS_NEVER     INT64_MAX
#define NSEC_PER_SEC  INT64_C(1000000000)
#define NSEC_PER_MSEC INT64_C(1000000)

#define KiB(n) ((u64)(n) << 10)
#define MiB(n) ((u64)(n) << 20)
#define GiB(n) ((u64)(n) << 30)
