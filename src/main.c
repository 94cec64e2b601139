/* Umbra: a virtual machine monitor for x86-64. The program's commands are in control/. */
#include "control/commands.h"

int main(int argc, char **argv)
{
	return commands_main(argc, argv);
}
