/* The commands of the program: `umbra NAME ...`. */
#pragma once

/* Runs the command that argv names. Returns the exit status. */
int commands_main(int argc, char **argv);
