/* Cut a chunk of lines into what its messages become in request bodies, by lane.

   A fast path: it takes only chunks of which nothing has to be complained of, and no more has to be
   normalised than an id that is a number, a time in quotes, and a store, type or time that is
   missing. It leaves every other one, as a whole, to decoding.py, which says what each line means.
   What both take, they take for the same: tests compare them byte by byte.

   Nothing is copied until a piece is taken: a message is a record of places in the chunk. All
   reading stops at the zero byte that follows the data of a bytes object. */

#include "_scanner.h"

#define DEPTH_MAX 63
#define INTEGER_DIGITS_MAX 18
#define DATA_MAX (1 << 28) /* So no size below overflows, even one of 32 bits. */

static const char *const TYPES[TYPE_COUNT] = {"CONTACT", "PRODUCT", "DEAL", "LINE_ITEM"};

/* What a message has besides its values. */
static const char BEFORE_ID[] = "{\"externalObjectId\":\"";
static const char BEFORE_ACTION[] = "\",\"action\":\"";
static const char BEFORE_TIME[] = "\",\"changedAt\":";
static const char BEFORE_PROPERTIES[] = ",\"properties\":";
static const char BEFORE_ASSOCIATIONS[] = ",\"associations\":";
#define TEXT_LENGTH(text) ((Py_ssize_t)sizeof(text) - 1)
#define ACTION_LENGTH 6
#define AROUND_LENGTH                                                                  \
    (TEXT_LENGTH(BEFORE_ID) + TEXT_LENGTH(BEFORE_ACTION) + ACTION_LENGTH +             \
     TEXT_LENGTH(BEFORE_TIME) + TEXT_LENGTH(BEFORE_PROPERTIES) +                       \
     TEXT_LENGTH(BEFORE_ASSOCIATIONS) + 1)

typedef struct {
    Groups *groups;
    const char *start; /* Of the data. */
    const char *default_store;
    Py_ssize_t default_store_length;
    int default_type; /* -1: there is none. */
    uint32_t latest;   /* The lane of the last message. */
    uint32_t *table; /* Indexes of `found` plus 1, by hash; 0 is empty. */
    uint32_t table_size;
    uint32_t undated;        /* So many messages have no time. */
    uint32_t *undated_table; /* Their records plus 1, by hash; 0 is empty. */
    uint32_t undated_table_size;
    int64_t earliest;
    int has_null, is_out_of_memory;
} Scan;

/* Grammar. Each function takes the place after what it is about has begun, and returns the place
   after its end; NULL where that is not valid, or not for this fast path. */

static const char *skip_blanks(const char *p) {
    while (*p == ' ' || *p == '\t' || *p == '\r') p++;
    return p;
}

static const char *skip_utf8(const char *p) {
    const unsigned char *u = (const unsigned char *)p;
#define IS_TAIL(byte) (((byte) & 0xc0) == 0x80)
    if (u[0] >= 0xc2 && u[0] <= 0xdf) {
        return IS_TAIL(u[1]) ? p + 2 : NULL;
    }
    if (u[0] >= 0xe0 && u[0] <= 0xef) {
        if (!IS_TAIL(u[1]) || (u[0] == 0xe0 && u[1] < 0xa0) || (u[0] == 0xed && u[1] > 0x9f))
            return NULL;
        return IS_TAIL(u[2]) ? p + 3 : NULL;
    }
    if (u[0] >= 0xf0 && u[0] <= 0xf4) {
        if (!IS_TAIL(u[1]) || (u[0] == 0xf0 && u[1] < 0x90) || (u[0] == 0xf4 && u[1] > 0x8f))
            return NULL;
        return IS_TAIL(u[2]) && IS_TAIL(u[3]) ? p + 4 : NULL;
    }
    return NULL;
#undef IS_TAIL
}

static int hex_value(const char *p) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int digit;
        if (c >= '0' && c <= '9') digit = c - '0';
        else if (c >= 'a' && c <= 'f') digit = c - 'a' + 10;
        else if (c >= 'A' && c <= 'F') digit = c - 'A' + 10;
        else return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* After a backslash. */
static const char *skip_escape(const char *p) {
    switch (*p) {
    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
        return p + 1;
    case 'u': {
        int value = hex_value(p + 1);
        if (value < 0 || (value >= 0xdc00 && value <= 0xdfff)) return NULL;
        p += 5;
        if (value >= 0xd800 && value <= 0xdbff) {
            if (p[0] != '\\' || p[1] != 'u') return NULL;
            value = hex_value(p + 2);
            if (value < 0xdc00 || value > 0xdfff) return NULL;
            p += 6;
        }
        return p;
    }
    default:
        return NULL;
    }
}

/* Bytes that are neither a quote, nor a backslash, nor a control, nor beyond ASCII. */
static inline const char *skip_plain(const char *p, const char *end) {
    const uint64_t ones = 0x0101010101010101u, tops = 0x8080808080808080u;
    while (end - p >= 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        uint64_t quote = word ^ (ones * '"'), slash = word ^ (ones * '\\');
        uint64_t odd = (quote - ones) | (slash - ones) | (word - ones * 0x20) | word;
        if (odd & tops) break;
        p += 8;
    }
    while ((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x80 && *p != '"' && *p != '\\') p++;
    return p;
}

/* After the opening quote. */
static const char *skip_string(const char *p, const char *end) {
    for (;;) {
        p = skip_plain(p, end);
        if (*p == '"') return p + 1;
        p = *p == '\\' ? skip_escape(p + 1) : skip_utf8(p);
        if (p == NULL) return NULL;
    }
}

static const char *skip_digits(const char *p) {
    if (*p < '0' || *p > '9') return NULL;
    while (*p >= '0' && *p <= '9') p++;
    return p;
}

static const char *skip_number(const char *p) {
    if (*p == '-') p++;
    if (*p == '0') p++;
    else if ((p = skip_digits(p)) == NULL) return NULL;
    if (*p == '.' && (p = skip_digits(p + 1)) == NULL) return NULL;
    if (*p == 'e' || *p == 'E') {
        p++;
        if (*p == '+' || *p == '-') p++;
        p = skip_digits(p);
    }
    return p;
}

/* An integer, in the one spelling that stays as it is when it becomes text. */
static const char *skip_integer(const char *p) {
    const char *start = *p == '-' ? p + 1 : p;
    p = skip_digits(start);
    if (p == NULL || p - start > INTEGER_DIGITS_MAX || *p == '.' || *p == 'e' || *p == 'E')
        return NULL;
    return *start == '0' && (p - start > 1 || start[-1] == '-') ? NULL : p;
}

/* Any value. `has_null` tells of a null that is the value of a key. */
static const char *skip_value(const char *p, const char *end, int *has_null) {
    uint64_t objects = 0; /* The lowest bit: what is innermost is an object. */
    int depth = 0;
value:
    switch (*p) {
    case '"':
        if ((p = skip_string(p + 1, end)) == NULL) return NULL;
        break;
    case '{':
        if (depth == DEPTH_MAX) return NULL;
        depth++;
        objects = objects << 1 | 1;
        p = skip_blanks(p + 1);
        if (*p == '}') goto close;
        goto key;
    case '[':
        if (depth == DEPTH_MAX) return NULL;
        depth++;
        objects <<= 1;
        p = skip_blanks(p + 1);
        if (*p == ']') goto close;
        goto value;
    case 't':
        if (strncmp(p, "true", 4) != 0) return NULL;
        p += 4;
        break;
    case 'f':
        if (strncmp(p, "false", 5) != 0) return NULL;
        p += 5;
        break;
    case 'n':
        if (strncmp(p, "null", 4) != 0) return NULL;
        p += 4;
        if (objects & 1) *has_null = 1;
        break;
    default:
        if ((p = skip_number(p)) == NULL) return NULL;
    }
next:
    if (depth == 0) return p;
    p = skip_blanks(p);
    if (*p == ',') {
        p = skip_blanks(p + 1);
        if (!(objects & 1)) goto value;
    key:
        if (*p != '"' || (p = skip_string(p + 1, end)) == NULL) return NULL;
        p = skip_blanks(p);
        if (*p != ':') return NULL;
        p = skip_blanks(p + 1);
        goto value;
    }
    if (*p != (objects & 1 ? '}' : ']')) return NULL;
close:
    depth--;
    objects >>= 1;
    p++;
    goto next;
}

/* Lanes. */

/* The items with more room; NULL, and as they were, when there is no memory. */
static void *grown(void *items, uint32_t *room, size_t item_size, uint32_t least) {
    uint32_t wanted = *room ? *room * 2 : least;
    void *larger = PyMem_RawRealloc(items, wanted * item_size);
    if (larger != NULL) *room = wanted;
    return larger;
}

uint32_t hash_of_lane(const char *store, Py_ssize_t length, int type) {
    uint32_t hash = 2166136261u ^ (uint32_t)type;
    for (Py_ssize_t i = 0; i < length; i++) hash = (hash ^ (unsigned char)store[i]) * 16777619u;
    return hash ^ hash >> 15;
}

static int is_same_object(const Scan *scan, const Record *a, const Record *b) {
    return a->lane == b->lane && a->id_length == b->id_length &&
           memcmp(scan->start + a->id, scan->start + b->id, a->id_length) == 0;
}

static uint32_t *slot_of_undated(const Scan *scan, uint32_t *table, uint32_t size, uint32_t index) {
    const Record *record = &scan->groups->records[index];
    uint32_t slot = hash_of_lane(scan->start + record->id, record->id_length, (int)record->lane);
    for (slot &= size - 1; table[slot]; slot = (slot + 1) & (size - 1))
        if (is_same_object(scan, record, &scan->groups->records[table[slot] - 1])) break;
    return &table[slot];
}

/* Take note of a message without a time; false where its object has another one: the two must not
   get the same time. */
static int note_undated(Scan *scan, uint32_t index) {
    if (scan->undated * 2 >= scan->undated_table_size) {
        uint32_t size = scan->undated_table_size ? scan->undated_table_size * 4 : 1024;
        uint32_t *table = PyMem_RawCalloc(size, sizeof(uint32_t));
        if (table == NULL) {
            scan->is_out_of_memory = 1;
            return 0;
        }
        for (uint32_t i = 0; i < scan->undated_table_size; i++)
            if (scan->undated_table[i])
                *slot_of_undated(scan, table, size, scan->undated_table[i] - 1) =
                    scan->undated_table[i];
        PyMem_RawFree(scan->undated_table);
        scan->undated_table = table;
        scan->undated_table_size = size;
    }
    uint32_t *slot =
        slot_of_undated(scan, scan->undated_table, scan->undated_table_size, index);
    if (*slot) return 0;
    *slot = index + 1;
    scan->undated++;
    return 1;
}

static int is_lane(const Found *one, const char *store, Py_ssize_t length, int type) {
    return one->type == type && one->store_length == length &&
           memcmp(one->store, store, (size_t)length) == 0;
}

static int grow_table(Scan *scan) {
    uint32_t size = scan->table_size ? scan->table_size * 4 : 64;
    uint32_t *table = PyMem_RawCalloc(size, sizeof(uint32_t));
    if (table == NULL) return -1;
    for (uint32_t i = 0; i < scan->groups->found_count; i++) {
        uint32_t slot = scan->groups->found[i].hash & (size - 1);
        while (table[slot]) slot = (slot + 1) & (size - 1);
        table[slot] = i + 1;
    }
    PyMem_RawFree(scan->table);
    scan->table = table;
    scan->table_size = size;
    return 0;
}

/* The group of a lane; NULL when there is no memory. */
static Found *found_of(Scan *scan, const char *store, Py_ssize_t length, int type) {
    Groups *groups = scan->groups;
    if (groups->found_count && is_lane(&groups->found[scan->latest], store, length, type))
        return &groups->found[scan->latest];
    if (groups->found_count * 2 >= scan->table_size && grow_table(scan) < 0) return NULL;
    uint32_t hash = hash_of_lane(store, length, type), mask = scan->table_size - 1;
    uint32_t slot = hash & mask;
    for (; scan->table[slot]; slot = (slot + 1) & mask) {
        Found *one = &groups->found[scan->table[slot] - 1];
        if (one->hash == hash && is_lane(one, store, length, type)) {
            scan->latest = scan->table[slot] - 1;
            return one;
        }
    }
    if (groups->found_count == groups->found_room) {
        Found *larger = grown(groups->found, &groups->found_room, sizeof(Found), 32);
        if (larger == NULL) return NULL;
        groups->found = larger;
    }
    scan->latest = groups->found_count++;
    scan->table[slot] = groups->found_count;
    Found *one = &groups->found[scan->latest];
    *one = (Found){store, length, hash, type, NONE, NONE, 0};
    return one;
}

/* Lines. */

Py_ssize_t length_of(const Record *one) {
    return AROUND_LENGTH + one->id_length + one->time_length +
           (one->properties.length ? one->properties.length : 2) +
           (one->associations.length ? one->associations.length : 2);
}

enum { STORE = 1, TYPE = 2, ACTION = 4, TIME = 8, ID = 16, PROPERTIES = 32, ASSOCIATIONS = 64 };

static int field_named(const char *name, Py_ssize_t length) {
#define IS(text) (memcmp(name, text, TEXT_LENGTH(text)) == 0)
    switch (length) {
    case 6: return IS("action") ? ACTION : 0;
    case 7: return IS("storeId") ? STORE : 0;
    case 9: return IS("changedAt") ? TIME : 0;
    case 10: return IS("objectType") ? TYPE : IS("properties") ? PROPERTIES : 0;
    case 12: return IS("associations") ? ASSOCIATIONS : 0;
    case 16: return IS("externalObjectId") ? ID : 0;
    default: return 0;
    }
#undef IS
}

int type_named(const char *name, Py_ssize_t length) {
    for (int type = 0; type < TYPE_COUNT; type++)
        if ((Py_ssize_t)strlen(TYPES[type]) == length && memcmp(name, TYPES[type], (size_t)length) == 0)
            return type;
    return -1;
}

/* One object from its opening brace on; its record is the last one of `scan`. */
static const char *scan_message(Scan *scan, const char *p, const char *end) {
    Groups *groups = scan->groups;
    Record *record = &groups->records[groups->count];
    memset(record, 0, sizeof *record);
    const char *store = scan->default_store;
    Py_ssize_t store_length = scan->default_store_length;
    int type = scan->default_type, seen = 0;
    if (*p != '{') return NULL;
    do {
        p = skip_blanks(p + 1);
        if (*p != '"') return NULL; /* An empty object has no id. */
        const char *name = p + 1;
        p = skip_plain(name, end);
        if (*p != '"') return NULL; /* Only other decoders know what an escaped name means. */
        int field = field_named(name, p - name);
        if (seen & field) return NULL;
        seen |= field;
        p = skip_blanks(p + 1);
        if (*p != ':') return NULL;
        p = skip_blanks(p + 1);
        const char *value = p;
        int has_null = 0, is_text = *p == '"';
        switch (field) {
        case STORE:
        case TYPE:
        case ACTION:
        case ID:
            if (!is_text) {
                if ((field != ID && field != STORE) || (p = skip_integer(p)) == NULL) return NULL;
                goto text;
            }
            value = ++p;
            for (;;) {
                p = skip_plain(p, end);
                if (*p == '"') break;
                if (field != STORE || *p == '\\' || (p = skip_utf8(p)) == NULL) return NULL;
            }
            if (p == value) return NULL;
        text:
            if (field == STORE) {
                store = value;
                store_length = p - value;
            } else if (field == TYPE) {
                if ((type = type_named(value, p - value)) < 0) return NULL;
            } else if (field == ID) {
                if (p - value > ID_MAX) return NULL;
                record->id = (uint32_t)(value - scan->start);
                record->id_length = (uint8_t)(p - value);
            } else {
                if (p - value != ACTION_LENGTH) return NULL;
                if (memcmp(value, "DELETE", ACTION_LENGTH) == 0) record->is_delete = 1;
                else if (memcmp(value, "UPSERT", ACTION_LENGTH) != 0) return NULL;
            }
            p += is_text;
            break;
        case TIME: {
            value = p += is_text;
            uint64_t time = 0; /* 19 digits have room. */
            while (*p >= '0' && *p <= '9' && p - value < 19)
                time = time * 10 + (uint64_t)(*p++ - '0');
            Py_ssize_t digits = p - value;
            if (digits == 0 || (digits > 1 && *value == '0') || time > INT64_MAX) return NULL;
            if (is_text && *p++ != '"') return NULL;
            record->time = (uint32_t)(value - scan->start);
            record->time_length = (uint8_t)digits;
            if ((int64_t)time < scan->earliest) scan->earliest = (int64_t)time;
            break;
        }
        case PROPERTIES:
        case ASSOCIATIONS: {
            if (*p != '{' || (p = skip_value(p, end, &has_null)) == NULL) return NULL;
            Span span = {(uint32_t)(value - scan->start), (uint32_t)(p - value)};
            if (field == PROPERTIES) {
                record->properties = span;
                scan->has_null |= has_null;
            } else {
                record->associations = span;
            }
            break;
        }
        default:
            if ((p = skip_value(p, end, &has_null)) == NULL) return NULL;
        }
        p = skip_blanks(p);
    } while (*p == ',');
    if (*p != '}' || !(seen & ID) || store == NULL || type < 0) return NULL;
    if (!(seen & TIME)) {
        if (!groups->filled_length) return NULL;
        record->time = NONE;
        record->time_length = groups->filled_length;
    }

    Found *lane = found_of(scan, store, store_length, type);
    if (lane == NULL) {
        scan->is_out_of_memory = 1;
        return NULL;
    }
    uint32_t index = groups->count++;
    record->lane = scan->latest;
    record->next = NONE;
    if (lane->tail == NONE) lane->head = index;
    else groups->records[lane->tail].next = index;
    lane->tail = index;
    lane->count++;
    if (record->time == NONE && !note_undated(scan, index)) return NULL;
    return p + 1;
}

/* All lines; false where one of them is not for this fast path. */
static int scan_lines(Scan *scan, const char *p, const char *end) {
    Groups *groups = scan->groups;
    for (; p < end; p++) {
        p = skip_blanks(p);
        if (p < end && *p != '\n') { /* Not a blank line. */
            if (groups->count == groups->room) {
                Record *larger = grown(groups->records, &groups->room, sizeof(Record), 256);
                if (larger == NULL) {
                    scan->is_out_of_memory = 1;
                    return 0;
                }
                groups->records = larger;
            }
            if ((p = scan_message(scan, p, end)) == NULL) return 0;
            p = skip_blanks(p);
        }
        if (p < end && *p != '\n') return 0;
    }
    return 1;
}

/* Give back the room for records that none came into; lanes point to them from now on. */
static void drop_room(Groups *groups) {
    if (groups->room == groups->count) return;
    Record *smaller = PyMem_RawRealloc(groups->records, groups->count * sizeof(Record));
    if (smaller == NULL) return; /* They stay where they are. */
    groups->records = smaller;
    groups->room = groups->count;
}

/* Messages on their way into a body. */

void close_groups(Groups *groups) {
    PyMem_RawFree(groups->found);
    groups->found = NULL;
    groups->found_count = groups->found_room = groups->next = 0;
}

Share share_of(const Groups *groups, const Found *found, Py_ssize_t most, Py_ssize_t most_bytes,
               int at_least_one) {
    Share share = {.stop = found->head};
    while (share.count < most && share.count < (Py_ssize_t)found->count) {
        const Record *one = &groups->records[share.stop];
        Py_ssize_t length = length_of(one) + (share.count > 0);
        if (share.size + length > most_bytes && !(at_least_one && share.count == 0)) break;
        share.size += length;
        share.ids_size += one->id_length + (share.count > 0);
        share.count++;
        share.stop = one->next;
    }
    return share;
}

char *put_message(char *to, const Record *one, const Groups *groups) {
    const char *data = PyBytes_AS_STRING(groups->data);
    to = put(to, BEFORE_ID, TEXT_LENGTH(BEFORE_ID));
    to = put(to, data + one->id, one->id_length);
    to = put(to, BEFORE_ACTION, TEXT_LENGTH(BEFORE_ACTION));
    to = put(to, one->is_delete ? "DELETE" : "UPSERT", ACTION_LENGTH);
    to = put(to, BEFORE_TIME, TEXT_LENGTH(BEFORE_TIME));
    to = put(to, one->time == NONE ? groups->filled : data + one->time, one->time_length);
    to = put(to, BEFORE_PROPERTIES, TEXT_LENGTH(BEFORE_PROPERTIES));
    to = one->properties.length
             ? put(to, data + one->properties.start, one->properties.length)
             : put(to, "{}", 2);
    to = put(to, BEFORE_ASSOCIATIONS, TEXT_LENGTH(BEFORE_ASSOCIATIONS));
    to = one->associations.length
             ? put(to, data + one->associations.start, one->associations.length)
             : put(to, "{}", 2);
    *to++ = '}';
    return to;
}

/* Python's side. */

/* One lane of a chunk. */
typedef struct {
    PyObject_HEAD
    Groups *groups;
    uint32_t index;
} Group;

/* Nothing, once all groups were taken out together. */
static Found *found_in(const Group *self) {
    static Found nothing = {.store = ""};
    return self->index < self->groups->found_count ? &self->groups->found[self->index] : &nothing;
}

static void group_dealloc(Group *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_DECREF(self->groups);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *group_store(Group *self, void *Py_UNUSED(closure)) {
    const Found *found = found_in(self);
    return PyUnicode_DecodeUTF8(found->store, found->store_length, "strict");
}

static PyObject *group_object_type(Group *self, void *Py_UNUSED(closure)) {
    State *state = PyType_GetModuleState(Py_TYPE(self));
    return Py_NewRef(state->type_names[found_in(self)->type]);
}

static PyObject *group_repr(Group *self) {
    PyObject *store = group_store(self, NULL);
    if (store == NULL) return NULL;
    const Found *found = found_in(self);
    PyObject *text = PyUnicode_FromFormat("<Group of %u for %U %s>", found->count, store,
                                          TYPES[found->type]);
    Py_DECREF(store);
    return text;
}

static Py_ssize_t group_length(Group *self) { return found_in(self)->count; }

PyDoc_STRVAR(take_doc,
"take(most, most_bytes, at_least_one)\n--\n\n"
"Take the next messages out: (piece of a body, ids, origins), or None where none fits.");

static PyObject *group_take(Group *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "take() takes 3 arguments");
        return NULL;
    }
    Py_ssize_t most = PyLong_AsSsize_t(args[0]);
    if (most == -1 && PyErr_Occurred()) return NULL;
    Py_ssize_t most_bytes = PyLong_AsSsize_t(args[1]);
    if (most_bytes == -1 && PyErr_Occurred()) return NULL;
    int at_least_one = PyObject_IsTrue(args[2]);
    if (at_least_one < 0) return NULL;

    Groups *groups = self->groups;
    Found *found = found_in(self);
    const char *data = PyBytes_AS_STRING(groups->data);
    const uint32_t head = found->head, left = found->count;
    Share share = share_of(groups, found, most, most_bytes, at_least_one);
    if (share.count == 0) Py_RETURN_NONE;

    /* They are taken before an object is made: that may collect garbage, and so run any code. */
    found->head = share.stop;
    found->count = left - (uint32_t)share.count;
    PyObject *piece = PyBytes_FromStringAndSize(NULL, share.size);
    PyObject *ids = PyUnicode_New(share.ids_size, share.count == 1 ? 0x7f : ID_SEPARATOR);
    PyObject *origins = PyList_New(share.count);
    if (piece == NULL || ids == NULL || origins == NULL) goto failed;
    char *to = PyBytes_AS_STRING(piece);
    char *to_ids = (char *)PyUnicode_DATA(ids);
    uint32_t index = head;
    for (Py_ssize_t i = 0; i < share.count; i++) {
        const Record *one = &groups->records[index];
        PyObject *origin = PyLong_FromLongLong(groups->first_origin + index);
        if (origin == NULL) goto failed;
        PyList_SET_ITEM(origins, i, origin);
        if (i) {
            *to++ = ',';
            *to_ids++ = (char)ID_SEPARATOR;
        }
        to = put_message(to, one, groups);
        to_ids = put(to_ids, data + one->id, one->id_length);
        index = one->next;
    }
    PyObject *taken = PyTuple_Pack(3, piece, ids, origins);
    if (taken == NULL) goto failed;
    Py_DECREF(piece);
    Py_DECREF(ids);
    Py_DECREF(origins);
    return taken;

failed:
    found->head = head;
    found->count = left;
    Py_XDECREF(piece);
    Py_XDECREF(ids);
    Py_XDECREF(origins);
    return NULL;
}

PyDoc_STRVAR(drop_doc, "drop()\n--\n\nForget the messages that are left: how many they are.");

static PyObject *group_drop(Group *self, PyObject *Py_UNUSED(ignored)) {
    uint32_t left = found_in(self)->count;
    if (left) found_in(self)->count = 0;
    return PyLong_FromUnsignedLong(left);
}

static PyMethodDef group_methods[] = {
    {"take", (PyCFunction)(void (*)(void))group_take, METH_FASTCALL, take_doc},
    {"drop", (PyCFunction)group_drop, METH_NOARGS, drop_doc},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef group_fields[] = {
    {"store_id", (getter)group_store, NULL, "The store of the lane.", NULL},
    {"object_type", (getter)group_object_type, NULL, "The object type of the lane.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot group_slots[] = {
    {Py_tp_dealloc, group_dealloc},
    {Py_tp_repr, group_repr},
    {Py_tp_methods, group_methods},
    {Py_tp_getset, group_fields},
    {Py_sq_length, group_length},
    {Py_tp_doc, "The messages of one lane in a chunk, in their order."},
    {0, NULL},
};

static PyType_Spec group_spec = {
    .name = "pusher._scanner.Group",
    .basicsize = sizeof(Group),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = group_slots,
};

static void groups_dealloc(Groups *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->data);
    Py_XDECREF(self->default_store);
    PyMem_RawFree(self->records);
    PyMem_RawFree(self->found);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t groups_length(Groups *self) { return self->found_count; }

static PyObject *groups_item(Groups *self, Py_ssize_t index) {
    if (index < 0 || index >= (Py_ssize_t)self->found_count) {
        PyErr_SetString(PyExc_IndexError, "there are not so many groups");
        return NULL;
    }
    State *state = PyType_GetModuleState(Py_TYPE(self));
    Group *group = PyObject_New(Group, state->group_type);
    if (group == NULL) return NULL;
    group->groups = (Groups *)Py_NewRef(self);
    group->index = (uint32_t)index;
    return (PyObject *)group;
}

static PyObject *groups_first(Groups *self, PyObject *Py_UNUSED(ignored)) {
    for (; self->next < self->found_count; self->next++)
        if (self->found[self->next].count) return groups_item(self, self->next);
    PyErr_SetString(PyExc_IndexError, "all messages were taken out");
    return NULL;
}

static PyObject *groups_left(Groups *self, PyObject *Py_UNUSED(ignored)) {
    size_t left = 0;
    for (uint32_t i = self->next; i < self->found_count; i++) left += self->found[i].count;
    return PyLong_FromSize_t(left);
}

static PyObject *groups_drop(Groups *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *left = groups_left(self, NULL);
    if (left != NULL)
        for (uint32_t i = 0; i < self->found_count; i++) self->found[i].count = 0;
    return left;
}

static PyMethodDef groups_methods[] = {
    {"first", (PyCFunction)groups_first, METH_NOARGS,
     "first()\n--\n\nThe first group that messages are left in."},
    {"left", (PyCFunction)groups_left, METH_NOARGS,
     "left()\n--\n\nHow many messages were not taken out yet."},
    {"drop", (PyCFunction)groups_drop, METH_NOARGS, drop_doc},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot groups_slots[] = {
    {Py_tp_dealloc, groups_dealloc},
    {Py_tp_methods, groups_methods},
    {Py_sq_length, groups_length},
    {Py_sq_item, groups_item},
    {Py_tp_doc, "The messages of a chunk, by lane."},
    {0, NULL},
};

static PyType_Spec groups_spec = {
    .name = "pusher._scanner.Groups",
    .basicsize = sizeof(Groups),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = groups_slots,
};

PyDoc_STRVAR(scan_doc,
"scan(data, first_origin, default_store, default_type, filled_ms)\n--\n\n"
"Find the messages of lines: (groups, count, how many of them have no changedAt and got filled_ms,\n"
"earliest changedAt of the others, whether a property is null).\n\n"
"None where a line is for slower decoders. With a filled_ms below 0, each message has to have a\n"
"time; otherwise, each object has one message without a time at most.");

static PyObject *scanner_scan(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    State *state = PyModule_GetState(module);
    if (nargs != 5 || !PyBytes_CheckExact(args[0])) {
        PyErr_SetString(PyExc_TypeError, "scan() takes bytes and 4 more arguments");
        return NULL;
    }
    long long first_origin = PyLong_AsLongLong(args[1]);
    if (first_origin == -1 && PyErr_Occurred()) return NULL;
    if (first_origin > LLONG_MAX - DATA_MAX) {
        PyErr_SetString(PyExc_OverflowError, "the first origin is too large");
        return NULL;
    }
    long long filled_ms = PyLong_AsLongLong(args[4]);
    if (filled_ms == -1 && PyErr_Occurred()) return NULL;
    Scan scan = {.default_type = -1, .earliest = INT64_MAX};
    if (args[2] != Py_None) {
        scan.default_store = PyUnicode_AsUTF8AndSize(args[2], &scan.default_store_length);
        if (scan.default_store == NULL) return NULL;
    }
    if (args[3] != Py_None) {
        Py_ssize_t length;
        const char *name = PyUnicode_AsUTF8AndSize(args[3], &length);
        if (name == NULL) return NULL;
        if ((scan.default_type = type_named(name, length)) < 0) {
            PyErr_SetString(PyExc_ValueError, "this is no object type");
            return NULL;
        }
    }
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    if (size > DATA_MAX) Py_RETURN_NONE;

    Groups *groups = PyObject_New(Groups, state->groups_type);
    if (groups == NULL) return NULL;
    memset((char *)groups + sizeof(PyObject), 0, sizeof(Groups) - sizeof(PyObject));
    groups->data = Py_NewRef(args[0]);
    groups->default_store = Py_NewRef(args[2]);
    groups->first_origin = first_origin;
    if (filled_ms >= 0) {
        PyOS_snprintf(groups->filled, sizeof groups->filled, "%lld", filled_ms);
        groups->filled_length = (uint8_t)strlen(groups->filled);
    }
    scan.groups = groups;
    scan.start = PyBytes_AS_STRING(args[0]);
    int is_done;
    Py_BEGIN_ALLOW_THREADS
    is_done = scan_lines(&scan, scan.start, scan.start + size);
    if (is_done) drop_room(groups);
    Py_END_ALLOW_THREADS

    PyObject *result = NULL;
    if (scan.is_out_of_memory) {
        PyErr_NoMemory();
    } else if (!is_done) {
        result = Py_NewRef(Py_None);
    } else {
        result = Py_BuildValue("(OIILO)", groups, groups->count, scan.undated,
                               (long long)scan.earliest, scan.has_null ? Py_True : Py_False);
    }
    PyMem_RawFree(scan.table);
    PyMem_RawFree(scan.undated_table);
    Py_DECREF(groups);
    return result;
}

PyDoc_STRVAR(take_off_doc,
"take_off(counts, first_chunk, origins)\n--\n\n"
"Subtract messages from the counts of their chunks, those from first_chunk on: the numbers of the\n"
"chunks whose counts have become 0.");

static PyObject *scanner_take_off(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *given, *emptied = NULL;
    Py_buffer buffer;
    long long first;
    if (!PyArg_ParseTuple(args, "w*LO", &buffer, &first, &given)) return NULL;
    PyObject *origins = PySequence_Fast(given, "origins are a sequence");
    if (origins == NULL || (emptied = PyList_New(0)) == NULL) goto failed;
    if (buffer.itemsize != (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_TypeError, "counts are integers of 64 bits");
        goto failed;
    }
    int64_t *counts = buffer.buf;
    Py_ssize_t length = buffer.len / (Py_ssize_t)sizeof(int64_t);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(origins); i++) {
        long long origin = PyLong_AsLongLong(PySequence_Fast_GET_ITEM(origins, i));
        if (origin == -1 && PyErr_Occurred()) goto failed;
        long long number = origin >> INDEX_BITS;
        uint64_t place = (uint64_t)number - (uint64_t)first;
        if (place >= (uint64_t)length || counts[place] <= 0) {
            PyErr_Format(PyExc_AssertionError, "chunk %lld was settled more often than it was read",
                         number);
            goto failed;
        }
        if (--counts[place] == 0) {
            PyObject *item = PyLong_FromLongLong(number);
            int is_added = item != NULL && PyList_Append(emptied, item) == 0;
            Py_XDECREF(item);
            if (!is_added) goto failed;
        }
    }
    Py_DECREF(origins);
    PyBuffer_Release(&buffer);
    return emptied;

failed:
    Py_XDECREF(origins);
    Py_XDECREF(emptied);
    PyBuffer_Release(&buffer);
    return NULL;
}

static PyMethodDef scanner_methods[] = {
    {"take_off", scanner_take_off, METH_VARARGS, take_off_doc},
    {"scan", (PyCFunction)(void (*)(void))scanner_scan, METH_FASTCALL, scan_doc},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject *add_type(PyObject *module, PyType_Spec *spec) {
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0) Py_CLEAR(type);
    return type;
}

static int scanner_exec(PyObject *module) {
    State *state = PyModule_GetState(module);
    for (int type = 0; type < TYPE_COUNT; type++)
        if ((state->type_names[type] = PyUnicode_InternFromString(TYPES[type])) == NULL) return -1;
    if ((state->group_type = add_type(module, &group_spec)) == NULL ||
        (state->groups_type = add_type(module, &groups_spec)) == NULL ||
        (state->lane_type = add_type(module, &lane_spec)) == NULL ||
        (state->lanes_type = add_type(module, &lanes_spec)) == NULL)
        return -1;
    PyObject *names = Py_BuildValue("[ssssss]", "Group", "Groups", "OpenLane", "OpenLanes", "scan",
                                    "take_off");
    int failed = PyModule_AddObjectRef(module, "__all__", names);
    Py_XDECREF(names);
    return failed;
}

static int scanner_traverse(PyObject *module, visitproc visit, void *arg) {
    State *state = PyModule_GetState(module);
    Py_VISIT(state->group_type);
    Py_VISIT(state->groups_type);
    Py_VISIT(state->lane_type);
    Py_VISIT(state->lanes_type);
    return 0;
}

static int scanner_clear(PyObject *module) {
    State *state = PyModule_GetState(module);
    for (int type = 0; type < TYPE_COUNT; type++) Py_CLEAR(state->type_names[type]);
    Py_CLEAR(state->group_type);
    Py_CLEAR(state->groups_type);
    Py_CLEAR(state->lane_type);
    Py_CLEAR(state->lanes_type);
    return 0;
}

static void scanner_free(void *module) { scanner_clear((PyObject *)module); }

static PyModuleDef_Slot scanner_slots[] = {
    {Py_mod_exec, scanner_exec},
    {0, NULL},
};

static struct PyModuleDef scanner_module = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "pusher._scanner",
    .m_doc = "Cuts a chunk of lines into request bodies, by lane.",
    .m_size = sizeof(State),
    .m_methods = scanner_methods,
    .m_slots = scanner_slots,
    .m_traverse = scanner_traverse,
    .m_clear = scanner_clear,
    .m_free = scanner_free,
};

PyMODINIT_FUNC PyInit__scanner(void) { return PyModuleDef_Init(&scanner_module); }
