/* `umbra run`: put a machine together from options, run it, say how it went. */
#pragma once

/* argv[0] is "run". Returns the exit status. */
int run_main(int argc, char **argv);
