/*
 * Floating point: scalar double, x87, SSE and AVX2 vectors, the C library's functions.
 *
 * Sums are taken from the bits of the results: each of these operations is exactly
 * defined, so that a machine that rounds differently is found out. libm alone is rounded
 * before, as the library has several versions of a function and takes what the CPU can.
 */
#include <math.h>
#include <string.h>
#include <sys/platform/x86.h>

#include "kernels.h"

static u64 bits(double d)
{
	u64 val;

	memcpy(&val, &d, sizeof(val));
	return val;
}

/* ---- nbody: five bodies that attract each other, scalar double ---- */

struct body {
	double x, y, z, vx, vy, vz, mass;
};

static void nbody_step(struct body *b, unsigned count, double dt)
{
	for (unsigned i = 0; i < count; i++) {
		for (unsigned j = i + 1; j < count; j++) {
			double dx = b[i].x - b[j].x, dy = b[i].y - b[j].y,
			       dz = b[i].z - b[j].z;
			double d2 = dx * dx + dy * dy + dz * dz + 0.01;
			double f = dt / (d2 * sqrt(d2));

			b[i].vx -= dx * b[j].mass * f;
			b[i].vy -= dy * b[j].mass * f;
			b[i].vz -= dz * b[j].mass * f;
			b[j].vx += dx * b[i].mass * f;
			b[j].vy += dy * b[i].mass * f;
			b[j].vz += dz * b[i].mass * f;
		}
	}
	for (unsigned i = 0; i < count; i++) {
		b[i].x += dt * b[i].vx;
		b[i].y += dt * b[i].vy;
		b[i].z += dt * b[i].vz;
	}
}

static u64 nbody(u64 n)
{
	struct body b[5];
	u64 sum = 0;

	for (unsigned i = 0; i < 5; i++)
		b[i] = (struct body){ i * 1.5,   i * i * 0.25, 3.0 - i,      0.1 * i,
				      -0.05 * i, 0.02,         1.0 / (i + 1) };
	while (n--)
		for (unsigned i = 0; i < 1000; i++)
			nbody_step(b, 5, 0.001);
	for (unsigned i = 0; i < 5; i++)
		sum = mix(mix(sum, bits(b[i].x)), bits(b[i].vy));
	return sum;
}

/* ---- x87: long double on the register stack ---- */

static u64 x87(u64 n)
{
	long double x = 0.5L, sum = 0;

	while (n--) {
		for (unsigned i = 1; i <= 1000; i++) {
			long double y = ((x * 0.25L - 1.5L) * x + 2.75L) * x + 0.125L;

			sum += sqrtl(y * y + i) / (i + x);
			x = y - (long double)(int)y;
			if (x > 1 || x < -1)
				x = 0.5L;
		}
	}
	return bits((double)sum);
}

/* ---- sse: four floats at a time, how long points of the Mandelbrot set stay ---- */

typedef float v4f __attribute__((vector_size(16)));
typedef int v4i __attribute__((vector_size(16)));

static u64 sse(u64 n)
{
	u64 sum = 0;

	while (n--) {
		for (unsigned row = 0; row < 64; row++) {
			v4f cy = (v4f){ 0 } + ((float)row / 32 - 1), x = { 0 }, y = { 0 };
			v4f cx = (v4f){ -2, -1.5f, -0.75f, 0 } + (float)row / 256;
			v4i steps = { 0 };

			for (unsigned i = 0; i < 100; i++) {
				v4f x2 = x * x, y2 = y * y;
				v4i small;

				/* A comparison is -1 where it holds. */
				steps -= x2 + y2 < 4;
				y = (x + x) * y + cy;
				x = x2 - y2 + cx;
				small = (v4i)(x < 1e6f) & (v4i)(x > -1e6f);
				x = (v4f)((v4i)x & small);
			}
			sum = mix(sum, (u64)(u32)(steps[0] + steps[1] * 3 + steps[2] * 5 +
						  steps[3] * 7));
		}
	}
	return sum;
}

/* ---- avx2, fma: eight floats and eight integers at a time ---- */

#define POINTS 2048

typedef float v8f __attribute__((vector_size(32)));
typedef int v8i __attribute__((vector_size(32)));

/* Both are the same text; contracted to fused operations where the second target has
 * them. */
#define STEP(name, target_)                                                              \
	__attribute__((target(target_))) static void name(v8f *p, v8i *q)                \
	{                                                                                \
		for (unsigned i = 0; i < POINTS / 8; i++) {                              \
			v8f x = p[i];                                                    \
			v8f y = ((x * 0.3f + 0.7f) * x - 0.2f) * x + 0.1f;               \
			v8i k = q[i];                                                    \
                                                                                         \
			k = (k << 3) + (k >> 5) * (k | 1);                               \
			p[i] = y - __builtin_convertvector(k & 3, v8f) * 0.25f;          \
			q[i] = k ^ (v8i)y;                                               \
		}                                                                        \
	}

STEP(avx2_step, "avx2")
STEP(fma_step, "avx2,fma")

static u64 vectors(u64 n, void (*step)(v8f *p, v8i *q))
{
	v8f *p = pages(POINTS * 4);
	v8i *q = pages(POINTS * 4);
	u64 sum = 0;

	for (unsigned i = 0; i < POINTS; i++) {
		((float *)p)[i] = (float)i / POINTS;
		((int *)q)[i] = (int)i;
	}
	while (n--)
		step(p, q);
	for (unsigned i = 0; i < POINTS / 2; i++)
		sum = mix(sum, ((u64 *)q)[i]);
	return sum;
}

static u64 avx2(u64 n)
{
	if (!CPU_FEATURE_ACTIVE(AVX2))
		skip("this CPU has no AVX2");
	return vectors(n, avx2_step);
}

static u64 fma_(u64 n)
{
	if (!CPU_FEATURE_ACTIVE(AVX2) || !CPU_FEATURE_ACTIVE(FMA))
		skip("this CPU has no AVX2 and FMA");
	return vectors(n, fma_step);
}

/* ---- libm: sin, exp, log, pow ---- */

static u64 libm(u64 n)
{
	double x = 0.5, total = 0;

	while (n--) {
		for (unsigned i = 1; i <= 1000; i++) {
			double y = sin(x * i) + exp(-x) + log(i + x) + pow(1.0 + x, 0.3);

			total += y;
			x = 0.25 + 0.5 * (i & 127) / 128;
		}
	}
	return (u64)(long long)(total * 1000);
}

const struct kernel float_kernels[] = {
	{ "nbody", nbody }, { "x87", x87 },   { "sse", sse }, { "avx2", avx2 },
	{ "fma", fma_ },    { "libm", libm }, { NULL, NULL },
};
