/* What a fuzz target defines, called by libFuzzer or by driver.c. Returns 0. */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
