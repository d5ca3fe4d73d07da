/* What a chunk's messages are to the scanner, which finds them, and to the lanes, which take them. */

#ifndef PUSHER_SCANNER_H
#define PUSHER_SCANNER_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>

#define NONE UINT32_MAX
#define ID_MAX 100
#define TYPE_COUNT 4
#define INDEX_BITS 20 /* Of an origin; above them is the number of its chunk. */
#define ID_SEPARATOR 0xff /* Between ids in a string of several: an id is ASCII. */

/* A place in the data. A map of length 0 is missing: it is written as {}. */
typedef struct {
    uint32_t start, length;
} Span;

typedef struct {
    Span properties, associations;
    uint32_t id, time; /* No time: NONE, and the length of what is filled in. */
    uint8_t id_length, time_length, is_delete;
    uint32_t lane; /* Which of those found. */
    uint32_t next; /* The next record of its lane. */
} Record;

/* The messages of one lane in a chunk, as they are found; `head` to `tail` are left. */
typedef struct {
    const char *store;
    Py_ssize_t store_length;
    uint32_t hash;
    int type;
    uint32_t head, tail, count;
} Found;

/* All messages of a chunk, by lane. */
typedef struct {
    PyObject_HEAD
    PyObject *data, *default_store; /* Records and stores point into them. */
    long long first_origin;
    char filled[24]; /* The time of messages that have none. */
    uint8_t filled_length;
    Record *records; /* Where they are once the scan is done, they stay. */
    uint32_t count, room;
    Found *found;
    uint32_t found_count, found_room;
    uint32_t next; /* The lane that messages are taken of next. */
    uint32_t held; /* So many are open in lanes, which hold one reference while there are any. */
} Groups;

typedef struct {
    PyObject *type_names[TYPE_COUNT];
    PyTypeObject *group_type, *groups_type, *lane_type, *lanes_type;
} State;

/* Messages from the front of a group: so many, that take so many bytes, up to a record. */
typedef struct {
    Py_ssize_t count, size, ids_size;
    uint32_t stop;
} Share;

extern PyType_Spec lane_spec, lanes_spec;

uint32_t hash_of_lane(const char *store, Py_ssize_t length, int type);
int type_named(const char *name, Py_ssize_t length);

/* What a message takes in a body. */
Py_ssize_t length_of(const Record *one);

/* Let go of what is of no use once all messages have been taken out of groups. */
void close_groups(Groups *groups);

/* What fits of a group: the separators between messages are counted, and none before them. */
Share share_of(const Groups *groups, const Found *found, Py_ssize_t most, Py_ssize_t most_bytes,
               int at_least_one);

/* Write a message as it is in a body; the place after it. */
char *put_message(char *to, const Record *one, const Groups *groups);

static inline char *put(char *to, const char *text, Py_ssize_t length) {
    memcpy(to, text, (size_t)length);
    return to + length;
}

#endif
