/* `umbra doctor`: what works on this host and what does not, with the reason. */
#pragma once

/* argv[0] is "doctor". Returns the exit status. */
int doctor_main(int argc, char **argv);
