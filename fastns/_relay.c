#include "_relay.h"
