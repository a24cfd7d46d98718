/* Ends the program that loads it, as plugins with a fault do. */

#include <stdlib.h>

__attribute__((constructor)) static void crash(void) { abort(); }
