/* octomil.h - the whole public interface.
 *
 * Handles are opaque; option structs are plain and all-zero means "default"; every
 * function that can fail returns om_status and fills an om_err it is given (or NULL).
 * No function prints, exits or keeps global state. */
#ifndef OCTOMIL_H
#define OCTOMIL_H

#include "octomil/base.h"
#include "octomil/model.h"
#include "octomil/run.h"
#include "octomil/train.h"

#endif
