/* The translator as an engine (cpu/engine.h). */
#pragma once

#include "cpu/engine.h"

extern const struct engine engine_translate;
