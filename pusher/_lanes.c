/* Open lanes: what is open in each, and which objects are in flight.

   As in plain.py, which is used where this was not compiled; tests hold the two against each
   other. Of what comes from the scanner a lane only notes the place: the chunk is held anyway. It is
   copied once, into the body, when that is taken. With many lanes each message meets memory that
   nothing has touched for long, so it is asked for ahead of its use. */

#include "_scanner.h"

#define BODY_END "]}"
#define BODY_END_LENGTH 2
#define AT_ONCE 32       /* So many lanes are asked for at once. */
#define AHEAD 8          /* So many messages ahead memory is asked for. */
#define AHEAD_BYTES 512  /* Of one map: of what is longer, the processor sees itself how it goes on. */
#define LEAST_ROOM 128
#define SMALL (1 << 16)
#define LARGE (1 << 20)
#define STEP (1 << 14)
#define AROUND_BYTES 64  /* More than a bytes object, and the allocator, take besides the bytes. */

#if defined(__GNUC__) || defined(__clang__)
#define PREFETCH(address) __builtin_prefetch((address), 1)
#define PREFETCH_READ(address) __builtin_prefetch((address), 0)
#else
#define PREFETCH(address) ((void)(address))
#define PREFETCH_READ(address) ((void)(address))
#endif

/* Where an open message is. */
typedef struct {
    Groups *groups; /* Not counted as a reference: `held` counts. */
    const Record *record;
} Place;

/* What one lane holds: messages that were copied or encoded into `text`, and after them the places
   of others. Of each message in the text, `kept` has its origin and, where order is kept, the length
   of its id and the id. */
typedef struct OpenLane {
    PyObject_VAR_HEAD /* The size is that of the store, in UTF-8. */
    uint32_t hash;
    int16_t type;
    int16_t is_whole; /* The text is a body already, and somebody else's. */
    uint32_t count;   /* Open messages. */
    uint32_t placed, places_room;
    uint32_t flying;  /* Batches. */
    Place *places;
    Py_ssize_t used;         /* What the body takes without its end, if something is open. */
    Py_ssize_t placed_bytes; /* Of that, what is in places. */
    PyObject *unlisted; /* Marks of the last one of them, where they are in no table yet; or NULL. */
    PyObject *text;       /* Bytes that become the body, or its beginning; NULL: there are none. */
    Py_ssize_t text_used; /* Without the end. */
    char *kept;
    uint32_t kept_used, kept_room;
    PyObject *waiting; /* What Python knows of messages that wait; mostly NULL. */
    double opened_at_s;
    struct OpenLane *older, *newer; /* Lanes with open messages. */
    PyObject *name, *head;
    const void *owner; /* The lanes that know it; NULL once they do not. */
    uint64_t number;
    char store[];
} OpenLane;

typedef struct {
    uint32_t hash;
    OpenLane *lane; /* NULL: empty. */
} Slot;

/* An object in flight, by the hash of its id and its lane; no key is 0. */
typedef struct {
    uint64_t key;
    uint32_t count;
} Flying;

typedef struct {
    PyObject_HEAD
    PyObject *name_lane; /* Called with a store and a type: (name, head of its bodies). */
    Py_ssize_t batch_size, batch_bytes;
    int keeps_order;
    Slot *slots;
    uint32_t slot_count, lane_count; /* The first is a power of 2. */
    OpenLane *oldest, *newest;
    Py_ssize_t open_count;
    Py_ssize_t held_bytes;
    Py_ssize_t placed_bytes, largest_bytes; /* Of all lanes; of the largest body of such a lane. */
    Flying *flying;
    uint32_t flying_room, flying_count; /* The first is a power of 2, or 0. */
    uint64_t next_number;
} OpenLanes;

/* Sizes of memory are powers of 2, and those and a half: what one lane lets go of fits another. */
static size_t rounded(size_t size) {
    size_t room = LEAST_ROOM;
    if (size > LARGE) return size + size / 8;
    while (room < size) room *= 2;
    return room / 4 * 3 >= size ? room / 4 * 3 : room;
}

static State *state_of(OpenLanes *self) { return PyType_GetModuleState(Py_TYPE(self)); }

/* Hashes of ids. They need not tell all ids apart: who has the same is looked at again. */

static uint64_t stirred(uint64_t value) {
    value *= 0x9e3779b97f4a7c15u;
    return value ^ value >> 32;
}

static uint64_t hash_of_id(const char *id, size_t length) {
    uint64_t hash = stirred(length + 1), word;
    for (; length >= 8; id += 8, length -= 8) {
        memcpy(&word, id, 8);
        hash = stirred(hash ^ word);
    }
    word = 0;
    memcpy(&word, id, length);
    return stirred(hash ^ word);
}

static uint64_t key_of(const OpenLane *lane, const char *id, size_t length) {
    uint64_t key = hash_of_id(id, length) ^ stirred(lane->number);
    return key ? key : 1;
}

/* Objects in flight. */

static uint32_t place_of_key(const OpenLanes *self, uint64_t key) {
    uint32_t mask = self->flying_room - 1, place = (uint32_t)key & mask;
    while (self->flying[place].key && self->flying[place].key != key) place = (place + 1) & mask;
    return place;
}

/* Make room for more; -1 when there is no memory. */
static int reserve_flying(OpenLanes *self, uint32_t more) {
    uint32_t room = self->flying_room ? self->flying_room : 1024;
    while (room < ((uint64_t)self->flying_count + more) * 2) room *= 2;
    if (room == self->flying_room) return 0;
    Flying *old = self->flying, *larger = PyMem_RawCalloc(room, sizeof(Flying));
    if (larger == NULL) return -1;
    uint32_t old_room = self->flying_room;
    self->flying = larger;
    self->flying_room = room;
    for (uint32_t i = 0; i < old_room; i++)
        if (old[i].key) larger[place_of_key(self, old[i].key)] = old[i];
    PyMem_RawFree(old);
    return 0;
}

static void take_off(OpenLanes *self, uint64_t key) {
    uint32_t mask = self->flying_room - 1, hole = place_of_key(self, key);
    if (!self->flying[hole].key || --self->flying[hole].count) return;
    self->flying_count--;
    /* Those that come after it move up, so that no search ends too early. */
    for (uint32_t place = (hole + 1) & mask; self->flying[place].key; place = (place + 1) & mask) {
        uint32_t home = (uint32_t)self->flying[place].key & mask;
        if (((place - home) & mask) >= ((place - hole) & mask)) {
            self->flying[hole] = self->flying[place];
            hole = place;
        }
    }
    self->flying[hole] = (Flying){0};
}

/* Put what is in flight of a lane into the table, all of it; -1 with an exception. Most batches are
   back before anybody asks. */
static int list_flying(OpenLanes *self, OpenLane *lane) {
    if (!lane->unlisted) return 0;
    const char *from = PyBytes_AS_STRING(lane->unlisted);
    Py_ssize_t count = PyBytes_GET_SIZE(lane->unlisted) / (Py_ssize_t)sizeof(uint64_t);
    if (reserve_flying(self, (uint32_t)count) < 0) {
        PyErr_NoMemory();
        return -1;
    }
    for (; count > 0; count--, from += sizeof(uint64_t)) {
        uint64_t key;
        memcpy(&key, from, sizeof key);
        Flying *one = &self->flying[place_of_key(self, key)];
        if (!one->key) self->flying_count++;
        *one = (Flying){key, one->count + 1};
    }
    Py_CLEAR(lane->unlisted);
    return 0;
}

/* What is kept of messages. */

static int reserve_kept(OpenLanes *self, OpenLane *lane, size_t more) {
    size_t wanted = lane->kept_used + more;
    if (wanted <= lane->kept_room) return 0;
    wanted = rounded(wanted);
    char *larger = wanted <= UINT32_MAX ? PyMem_RawRealloc(lane->kept, wanted) : NULL;
    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    self->held_bytes += (Py_ssize_t)(wanted - lane->kept_room);
    lane->kept = larger;
    lane->kept_room = (uint32_t)wanted;
    return 0;
}

/* Without its id. */
static size_t kept_length(const OpenLanes *self) { return sizeof(int64_t) + (self->keeps_order != 0); }

/* What is known of an open message; of its id only where order is kept. */
typedef struct {
    int64_t origin;
    const char *id;
    size_t id_length;
} Kept;

static void keep(OpenLanes *self, OpenLane *lane, const Kept *one) {
    char *to = put(lane->kept + lane->kept_used, (const char *)&one->origin, sizeof one->origin);
    if (self->keeps_order) {
        *to++ = (char)one->id_length;
        to = put(to, one->id, (Py_ssize_t)one->id_length);
    }
    lane->kept_used = (uint32_t)(to - lane->kept);
}

static const char *read_kept(const OpenLanes *self, const char *from, Kept *kept) {
    *kept = (Kept){0};
    memcpy(&kept->origin, from, sizeof kept->origin);
    from += sizeof kept->origin;
    if (self->keeps_order) {
        kept->id_length = (unsigned char)*from++;
        kept->id = from;
        from += kept->id_length;
    }
    return from;
}

static Kept kept_of(const OpenLanes *self, const Place *place) {
    const Groups *groups = place->groups;
    Kept kept = {.origin = groups->first_origin + (place->record - groups->records)};
    if (self->keeps_order) {
        kept.id = PyBytes_AS_STRING(groups->data) + place->record->id;
        kept.id_length = place->record->id_length;
    }
    return kept;
}

/* The open messages of a lane, one after the other. */
typedef struct {
    const OpenLane *lane;
    const char *from;
    uint32_t index;
} Walk;

static Walk walk(const OpenLane *lane) { return (Walk){lane, lane->kept, 0}; }

static int has_next(const OpenLanes *self, Walk *one, Kept *kept) {
    const OpenLane *lane = one->lane;
    const uint32_t copied = lane->count - lane->placed;
    if (one->index == lane->count) return 0;
    if (one->index < copied) one->from = read_kept(self, one->from, kept);
    else *kept = kept_of(self, &lane->places[one->index - copied]);
    one->index++;
    return 1;
}

/* Places. */

static Py_ssize_t groups_bytes(const Groups *groups) {
    return (Py_ssize_t)(sizeof(Groups) + groups->count * sizeof(Record));
}

static void hold(OpenLanes *self, Groups *groups, uint32_t count) {
    if (groups->held == 0) {
        Py_INCREF(groups);
        self->held_bytes += groups_bytes(groups);
    }
    groups->held += count;
}

static void let_go(OpenLanes *self, const Place *places, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        Groups *groups = places[i].groups;
        if (--groups->held) continue;
        self->held_bytes -= groups_bytes(groups);
        Py_DECREF(groups);
    }
}

static int reserve_places(OpenLanes *self, OpenLane *lane, uint32_t more) {
    size_t wanted = (size_t)lane->placed + more;
    if (wanted <= lane->places_room) return 0;
    size_t room = lane->places_room ? lane->places_room : LEAST_ROOM / sizeof(Place);
    while (room < wanted) room *= 2;
    Place *larger =
        room <= INT32_MAX ? PyMem_RawRealloc(lane->places, room * sizeof(Place)) : NULL;
    if (larger == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    lane->places = larger;
    lane->places_room = (uint32_t)room;
    return 0;
}

static uint32_t at_most(uint32_t count, uint32_t most) { return count < most ? count : most; }

static void ask_for_bytes(const char *from, uint32_t length) {
    if (length == 0) return;
    const char *last = from + at_most(length, AHEAD_BYTES) - 1;
    for (; from < last; from += 64) PREFETCH_READ(from);
    PREFETCH_READ(last);
}

static void ask_for_record(const Place *place) {
    PREFETCH_READ(place->record);
    PREFETCH_READ(&place->groups->data);
}

/* A page that was not used for long is only looked up for sure by a load, so there is one first. The
   loads of several messages overlap. */
static void ask_for_messages(const Place *places, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const char *data = PyBytes_AS_STRING(places[i].groups->data);
        (void)*(const volatile char *)(data + places[i].record->id);
    }
    for (uint32_t i = 0; i < count; i++) {
        const Record *record = places[i].record;
        const char *data = PyBytes_AS_STRING(places[i].groups->data);
        if (record->time != NONE) PREFETCH_READ(data + record->time);
        ask_for_bytes(data + record->properties.start, record->properties.length);
        ask_for_bytes(data + record->associations.start, record->associations.length);
    }
}

/* Copy messages from their places into a body; the place after them. */
static char *gather(char *to, const Place *places, uint32_t count, int is_first) {
    for (uint32_t i = 0; i < at_most(count, 2 * AHEAD); i++) ask_for_record(&places[i]);
    ask_for_messages(places, at_most(count, AHEAD));
    while (count > 0) {
        const uint32_t now = at_most(count, AHEAD), next = at_most(count - now, AHEAD);
        for (uint32_t i = 2 * AHEAD; i < at_most(count, 3 * AHEAD); i++) ask_for_record(&places[i]);
        ask_for_messages(places + now, next);
        for (uint32_t i = 0; i < now; i++) {
            if (!is_first) *to++ = ',';
            is_first = 0;
            to = put_message(to, places[i].record, places[i].groups);
        }
        places += now;
        count -= now;
    }
    return to;
}

/* The table of lanes. */

static int is_named(const OpenLane *lane, const char *store, Py_ssize_t length, int type) {
    return lane->type == type && Py_SIZE(lane) == length &&
           memcmp(lane->store, store, (size_t)length) == 0;
}

/* Where a lane is, or would be. */
static uint32_t slot_of(const OpenLanes *self, uint32_t hash, const char *store, Py_ssize_t length,
                        int type) {
    uint32_t mask = self->slot_count - 1, slot = hash & mask;
    for (; self->slots[slot].lane; slot = (slot + 1) & mask)
        if (self->slots[slot].hash == hash && is_named(self->slots[slot].lane, store, length, type))
            break;
    return slot;
}

static int reserve_slot(OpenLanes *self) {
    if ((uint64_t)(self->lane_count + 1) * 2 <= self->slot_count) return 0;
    uint32_t count = self->slot_count ? self->slot_count * 2 : 64;
    Slot *slots = PyMem_RawCalloc(count, sizeof(Slot));
    if (slots == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (uint32_t i = 0; i < self->slot_count; i++) {
        if (!self->slots[i].lane) continue;
        uint32_t slot = self->slots[i].hash & (count - 1);
        while (slots[slot].lane) slot = (slot + 1) & (count - 1);
        slots[slot] = self->slots[i];
    }
    PyMem_RawFree(self->slots);
    self->slots = slots;
    self->slot_count = count;
    return 0;
}

static OpenLane *new_lane(OpenLanes *self, uint32_t hash, const char *store, Py_ssize_t length,
                          int type) {
    State *state = state_of(self);
    PyObject *text = PyUnicode_DecodeUTF8(store, length, "strict");
    if (text == NULL) return NULL;
    PyObject *name = NULL, *head = NULL;
    PyObject *arguments[] = {text, state->type_names[type]};
    PyObject *named = PyObject_Vectorcall(self->name_lane, arguments, 2, NULL);
    Py_DECREF(text);
    if (named == NULL) return NULL;
    if (!PyTuple_Check(named) || !PyArg_ParseTuple(named, "OS", &name, &head)) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_TypeError, "a name and a head are expected");
        Py_DECREF(named);
        return NULL;
    }
    OpenLane *lane = PyObject_NewVar(OpenLane, state->lane_type, length);
    if (lane != NULL) {
        memset((char *)lane + sizeof(PyVarObject), 0, sizeof(OpenLane) - sizeof(PyVarObject));
        lane->hash = hash;
        lane->type = (int16_t)type;
        lane->name = Py_NewRef(name);
        lane->head = Py_NewRef(head);
        lane->owner = self;
        lane->number = self->next_number++;
        put(lane->store, store, length);
    }
    Py_DECREF(named);
    return lane;
}

/* The lane of a store and a type, new if need be; borrowed. NULL with an exception. */
static OpenLane *lane_of(OpenLanes *self, uint32_t hash, const char *store, Py_ssize_t length,
                         int type) {
    if (self->slot_count) {
        uint32_t slot = slot_of(self, hash, store, length, type);
        if (self->slots[slot].lane) return self->slots[slot].lane;
    }
    OpenLane *lane = new_lane(self, hash, store, length, type);
    if (lane == NULL || reserve_slot(self) < 0) {
        Py_XDECREF(lane);
        return NULL;
    }
    uint32_t slot = slot_of(self, hash, store, length, type);
    self->slots[slot] = (Slot){hash, lane};
    self->lane_count++;
    return lane;
}

static void forget_slot(OpenLanes *self, uint32_t hole) {
    uint32_t mask = self->slot_count - 1;
    for (uint32_t slot = (hole + 1) & mask; self->slots[slot].lane; slot = (slot + 1) & mask) {
        if (((slot - self->slots[slot].hash) & mask) >= ((slot - hole) & mask)) {
            self->slots[hole] = self->slots[slot];
            hole = slot;
        }
    }
    self->slots[hole].lane = NULL;
    self->lane_count--;
}

/* Bodies. */

static Py_ssize_t body_length(const OpenLane *lane) {
    return (lane->count ? lane->used : PyBytes_GET_SIZE(lane->head)) + BODY_END_LENGTH;
}

/* Something comes into a lane: it takes so many bytes in the body. */
static void fill_lane(OpenLanes *self, OpenLane *lane, uint32_t count, Py_ssize_t size, double now_s) {
    if (lane->count) {
        lane->used += size + 1; /* A comma. */
        lane->count += count;
        return;
    }
    lane->used = PyBytes_GET_SIZE(lane->head) + size;
    lane->count = count;
    lane->opened_at_s = now_s;
    lane->older = self->newest;
    lane->newer = NULL;
    if (self->newest) self->newest->newer = lane;
    else self->oldest = lane;
    self->newest = lane;
    self->open_count++;
}

/* Nothing is open in it any more. Its text is the caller's. */
static void empty_lane(OpenLanes *self, OpenLane *lane) {
    if (lane->count) {
        if (lane->older) lane->older->newer = lane->newer;
        else self->oldest = lane->newer;
        if (lane->newer) lane->newer->older = lane->older;
        else self->newest = lane->older;
        lane->older = lane->newer = NULL;
        self->open_count--;
    }
    if (lane->text) self->held_bytes -= PyBytes_GET_SIZE(lane->text);
    self->held_bytes -= lane->kept_room;
    let_go(self, lane->places, lane->placed);
    PyMem_RawFree(lane->kept);
    PyMem_RawFree(lane->places);
    self->placed_bytes -= lane->placed_bytes;
    lane->places = NULL;
    lane->placed = lane->places_room = 0;
    lane->placed_bytes = 0;
    lane->text = NULL;
    lane->text_used = 0;
    lane->kept = NULL;
    lane->kept_used = lane->kept_room = 0;
    lane->count = 0;
}

static void clear_lane(OpenLanes *self, OpenLane *lane) {
    PyObject *text = lane->text;
    empty_lane(self, lane);
    Py_XDECREF(text);
}

/* Let go of room that nothing came into. */
static void drop_room(OpenLanes *self, OpenLane *lane) {
    if (!lane->count) clear_lane(self, lane);
}

/* Make room for messages in the text; -1 with an exception. */
static int reserve_text(OpenLanes *self, OpenLane *lane, Py_ssize_t more) {
    Py_ssize_t used = lane->text ? lane->text_used : PyBytes_GET_SIZE(lane->head);
    Py_ssize_t wanted = used + more + BODY_END_LENGTH;
    if (lane->text && wanted <= PyBytes_GET_SIZE(lane->text)) return 0;
    wanted = (Py_ssize_t)rounded((size_t)(wanted + AROUND_BYTES)) - AROUND_BYTES;
    PyObject *text = PyBytes_FromStringAndSize(NULL, wanted);
    if (text == NULL) return -1;
    PyObject *from = lane->text ? lane->text : lane->head;
    memcpy(PyBytes_AS_STRING(text), PyBytes_AS_STRING(from), (size_t)used);
    self->held_bytes += wanted - (lane->text ? PyBytes_GET_SIZE(lane->text) : 0);
    Py_XDECREF(lane->text);
    lane->text = text;
    lane->text_used = used;
    lane->is_whole = 0;
    return 0;
}

/* Copy the first placed messages of a lane into its text, with the chunks that they were in let go
   of; -1 with an exception, and nothing is changed. */
static int copy_out(OpenLanes *self, OpenLane *lane, uint32_t count) {
    if (count == 0) return 0;
    int is_first = lane->count == lane->placed;
    Py_ssize_t size = 0;
    size_t kept_size = count * kept_length(self);
    for (uint32_t i = 0; i < count; i++) {
        size += length_of(lane->places[i].record) + 1;
        kept_size += lane->places[i].record->id_length;
    }
    if (reserve_text(self, lane, size) < 0 || reserve_kept(self, lane, kept_size) < 0) return -1;
    char *to = PyBytes_AS_STRING(lane->text) + lane->text_used;
    to = gather(to, lane->places, count, is_first);
    lane->text_used = to - PyBytes_AS_STRING(lane->text);
    for (uint32_t i = 0; i < count; i++) {
        Kept kept = kept_of(self, &lane->places[i]);
        keep(self, lane, &kept);
    }
    let_go(self, lane->places, count);
    self->placed_bytes -= size;
    lane->placed_bytes -= size;
    lane->placed -= count;
    memmove(lane->places, lane->places + count, lane->placed * sizeof(Place));
    return 0;
}

/* Move what fits of a group into its lane; how many messages that was, or -1. */
static Py_ssize_t move(OpenLanes *self, OpenLane *lane, Groups *groups, Found *found, double now_s) {
    Share share = share_of(groups, found, self->batch_size - lane->count,
                           self->batch_bytes - body_length(lane) - (lane->count > 0), !lane->count);
    if (share.count == 0) return 0;
    if (reserve_places(self, lane, (uint32_t)share.count) < 0) {
        drop_room(self, lane);
        return -1;
    }
    Place *to = lane->places + lane->placed;
    for (uint32_t index = found->head; index != share.stop; index = groups->records[index].next)
        *to++ = (Place){groups, &groups->records[index]};
    hold(self, groups, (uint32_t)share.count);
    lane->placed += (uint32_t)share.count;
    fill_lane(self, lane, (uint32_t)share.count, share.size, now_s);
    self->placed_bytes += share.size + 1;
    lane->placed_bytes += share.size + 1;
    /* A larger one, of one message, leaves at once. */
    const Py_ssize_t used = lane->used < self->batch_bytes ? lane->used : self->batch_bytes;
    if (used > self->largest_bytes) self->largest_bytes = used;
    found->head = share.stop;
    found->count -= (uint32_t)share.count;
    return share.count;
}

static int is_full(const OpenLanes *self, const OpenLane *lane) {
    return (Py_ssize_t)lane->count >= self->batch_size || body_length(lane) >= self->batch_bytes;
}

/* Ask for the memory that the next groups need. */
static void ask_ahead(const OpenLanes *self, const Groups *groups, uint32_t start, uint32_t stop) {
    uint32_t mask = self->slot_count - 1;
    const OpenLane *lanes[AT_ONCE];
    if (!self->slot_count) return;
    for (uint32_t i = start; i < stop; i++) PREFETCH(&self->slots[groups->found[i].hash & mask]);
    for (uint32_t i = start; i < stop; i++) {
        uint32_t hash = groups->found[i].hash, slot = hash & mask;
        while (self->slots[slot].lane && self->slots[slot].hash != hash) slot = (slot + 1) & mask;
        const OpenLane *lane = lanes[i - start] = self->slots[slot].lane;
        if (lane) {
            PREFETCH((const char *)lane);
            PREFETCH((const char *)lane + 64);
            PREFETCH((const char *)lane + 128);
            PREFETCH(lane->store);
        }
    }
    for (uint32_t i = start; i < stop; i++) {
        const OpenLane *lane = lanes[i - start];
        if (lane && lane->places) PREFETCH(lane->places + lane->placed);
    }
}

PyDoc_STRVAR(add_doc,
"add(groups, now_s)\n--\n\n"
"Take messages out of groups, until a lane has to be looked at, which is returned: it is full, or\n"
"the next message does not fit, or messages wait there. None: all are taken.");

static PyObject *lanes_add(OpenLanes *self, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 2 || !Py_IS_TYPE(args[0], state_of(self)->groups_type)) {
        PyErr_SetString(PyExc_TypeError, "add() takes groups and a time");
        return NULL;
    }
    Groups *groups = (Groups *)args[0];
    double now_s = PyFloat_AsDouble(args[1]);
    if (now_s == -1.0 && PyErr_Occurred()) return NULL;
    uint32_t asked = groups->next;
    for (; groups->next < groups->found_count; groups->next++) {
        if (groups->next >= asked) {
            uint32_t left = groups->found_count - asked;
            uint32_t stop = asked + (left < AT_ONCE ? left : AT_ONCE);
            ask_ahead(self, groups, asked, stop);
            asked = stop;
        }
        const uint32_t at = groups->next;
        Found *found = &groups->found[at];
        if (!found->count) continue;
        OpenLane *lane = lane_of(self, found->hash, found->store, found->store_length, found->type);
        if (lane == NULL) return NULL;
        if (groups->next != at || at >= groups->found_count) { /* By what gave it its name. */
            PyErr_SetString(PyExc_RuntimeError, "these groups were added meanwhile");
            return NULL;
        }
        if (lane->waiting) return Py_NewRef(lane);
        while (found->count) {
            Py_ssize_t moved = move(self, lane, groups, found, now_s);
            if (moved < 0) return NULL;
            if (moved == 0 || is_full(self, lane)) return Py_NewRef(lane);
        }
    }
    close_groups(groups);
    Py_RETURN_NONE;
}

/* Python's side. */

static OpenLane *as_lane(OpenLanes *self, PyObject *one) {
    if (!Py_IS_TYPE(one, state_of(self)->lane_type))
        PyErr_SetString(PyExc_TypeError, "this is no open lane");
    else if (((OpenLane *)one)->owner != self)
        PyErr_SetString(PyExc_ValueError, "this lane is forgotten, or of other lanes");
    else return (OpenLane *)one;
    return NULL;
}

PyDoc_STRVAR(lane_doc, "lane(store_id, object_type)\n--\n\nThe lane of a store and a type.");

static PyObject *lanes_lane(OpenLanes *self, PyObject *const *args, Py_ssize_t nargs) {
    const char *store, *name;
    Py_ssize_t length, name_length;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "lane() takes 2 arguments");
        return NULL;
    }
    if ((store = PyUnicode_AsUTF8AndSize(args[0], &length)) == NULL ||
        (name = PyUnicode_AsUTF8AndSize(args[1], &name_length)) == NULL)
        return NULL;
    int type = type_named(name, name_length);
    if (type < 0) {
        PyErr_SetString(PyExc_ValueError, "this is no object type");
        return NULL;
    }
    uint32_t hash = hash_of_lane(store, length, type);
    return Py_XNewRef((PyObject *)lane_of(self, hash, store, length, type));
}

/* Keep the ids and origins of messages; -1 with an exception, and nothing is changed. */
static int keep_all(OpenLanes *self, OpenLane *lane, PyObject *ids, PyObject *origins) {
    Py_ssize_t count = PyList_GET_SIZE(origins), ids_length = PyUnicode_GET_LENGTH(ids);
    if (PyUnicode_KIND(ids) != PyUnicode_1BYTE_KIND) {
        PyErr_SetString(PyExc_ValueError, "an id is not ASCII");
        return -1;
    }
    if (reserve_kept(self, lane, (size_t)count * kept_length(self) + (size_t)ids_length) < 0)
        return -1;
    const char *id = (const char *)PyUnicode_1BYTE_DATA(ids), *end = id + ids_length;
    uint32_t used_before = lane->kept_used;
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *stop = id;
        for (; self->keeps_order && stop < end && (unsigned char)*stop != ID_SEPARATOR; stop++) {
            if ((unsigned char)*stop < 0x80) continue;
            PyErr_SetString(PyExc_ValueError, "an id is not ASCII");
            goto failed;
        }
        PyObject *item = PyList_GET_ITEM(origins, i);
        if (!PyLong_Check(item)) { /* Anything else may run code to become one. */
            PyErr_SetString(PyExc_TypeError, "an origin is an integer");
            goto failed;
        }
        long long origin = PyLong_AsLongLong(item);
        if (origin == -1 && PyErr_Occurred()) goto failed;
        if (stop - id > ID_MAX || (self->keeps_order && (stop < end) != (i + 1 < count))) {
            PyErr_SetString(PyExc_ValueError, "there are not as many ids as origins");
            goto failed;
        }
        Kept kept = {origin, id, (size_t)(stop - id)};
        keep(self, lane, &kept);
        id = stop + (stop < end);
    }
    return 0;

failed:
    lane->kept_used = used_before;
    return -1;
}

PyDoc_STRVAR(extend_doc,
"extend(lane, piece, ids, origins, now_s)\n--\n\n"
"Add messages to what is open in a lane: a piece of a body, and as `ids_text_of` gives their ids.");

static PyObject *lanes_extend(OpenLanes *self, PyObject *args) {
    PyObject *one, *ids, *origins, *result = NULL;
    Py_buffer piece;
    OpenLane *lane;
    double now_s;
    if (!PyArg_ParseTuple(args, "Oy*UO!d", &one, &piece, &ids, &PyList_Type, &origins, &now_s))
        return NULL;
    Py_ssize_t count = PyList_GET_SIZE(origins);
    if ((lane = as_lane(self, one)) == NULL) goto done;
    if (count > 0) {
        if (copy_out(self, lane, lane->placed) < 0) goto done; /* They come before it. */
        if (reserve_text(self, lane, piece.len + 1) < 0 ||
            keep_all(self, lane, ids, origins) < 0) {
            drop_room(self, lane);
            goto done;
        }
        char *to = PyBytes_AS_STRING(lane->text) + lane->text_used;
        if (lane->count) *to++ = ',';
        lane->text_used = put(to, piece.buf, piece.len) - PyBytes_AS_STRING(lane->text);
        fill_lane(self, lane, (uint32_t)count, piece.len, now_s);
    }
    result = Py_NewRef(Py_None);
done:
    PyBuffer_Release(&piece);
    return result;
}

PyDoc_STRVAR(put_doc,
"put(lane, body, ids, origins, now_s)\n--\n\n"
"Let a whole body be what is open in a lane where nothing is; it is not copied.");

static PyObject *lanes_put(OpenLanes *self, PyObject *args) {
    PyObject *one, *body, *ids, *origins;
    OpenLane *lane;
    double now_s;
    if (!PyArg_ParseTuple(args, "OSUO!d", &one, &body, &ids, &PyList_Type, &origins, &now_s) ||
        (lane = as_lane(self, one)) == NULL)
        return NULL;
    if (lane->count || PyList_GET_SIZE(origins) == 0 ||
        PyBytes_GET_SIZE(body) < PyBytes_GET_SIZE(lane->head) + BODY_END_LENGTH) {
        PyErr_SetString(PyExc_ValueError, "a body is put where nothing is open");
        return NULL;
    }
    if (keep_all(self, lane, ids, origins) < 0) {
        drop_room(self, lane);
        return NULL;
    }
    if (lane->text) self->held_bytes -= PyBytes_GET_SIZE(lane->text);
    Py_XSETREF(lane->text, Py_NewRef(body));
    self->held_bytes += PyBytes_GET_SIZE(body);
    lane->text_used = PyBytes_GET_SIZE(body) - BODY_END_LENGTH;
    lane->is_whole = 1;
    fill_lane(self, lane, (uint32_t)PyList_GET_SIZE(origins),
              lane->text_used - PyBytes_GET_SIZE(lane->head), now_s);
    Py_RETURN_NONE;
}

static PyObject *origins_of(const OpenLanes *self, const OpenLane *lane) {
    PyObject *origins = PyList_New(lane->count);
    if (origins == NULL) return NULL;
    Walk each = walk(lane);
    Kept kept;
    while (has_next(self, &each, &kept)) {
        PyObject *origin = PyLong_FromLongLong(kept.origin);
        if (origin == NULL) {
            Py_DECREF(origins);
            return NULL;
        }
        PyList_SET_ITEM(origins, each.index - 1, origin);
    }
    return origins;
}

static PyObject *ids_of(const OpenLanes *self, const OpenLane *lane) {
    if (!self->keeps_order || !lane->count) return PyUnicode_New(0, 0);
    Py_ssize_t ids_size = lane->count - 1;
    Kept kept;
    for (Walk each = walk(lane); has_next(self, &each, &kept);)
        ids_size += (Py_ssize_t)kept.id_length;
    PyObject *ids = PyUnicode_New(ids_size, lane->count == 1 ? 0x7f : ID_SEPARATOR);
    if (ids == NULL) return NULL;
    char *to = (char *)PyUnicode_DATA(ids);
    for (Walk each = walk(lane); has_next(self, &each, &kept);) {
        if (each.index > 1) *to++ = (char)ID_SEPARATOR;
        to = put(to, kept.id, (Py_ssize_t)kept.id_length);
    }
    return ids;
}

/* The objects of a batch, as keys. */
static PyObject *marks_of(OpenLanes *self, OpenLane *lane) {
    Py_ssize_t count = self->keeps_order ? (Py_ssize_t)lane->count : 0;
    PyObject *marks = PyBytes_FromStringAndSize(NULL, count * (Py_ssize_t)sizeof(uint64_t));
    if (marks == NULL || !self->keeps_order) return marks;
    char *to = PyBytes_AS_STRING(marks);
    Kept kept;
    for (Walk each = walk(lane); has_next(self, &each, &kept);) {
        uint64_t key = key_of(lane, kept.id, kept.id_length);
        to = put(to, (const char *)&key, sizeof key);
    }
    return marks;
}

/* Bytes with room to spare, which goes with them: where sizes are alike, memory that was just used is
   found again. */
static PyObject *bytes_of(Py_ssize_t size) {
    size_t room = (size_t)size + AROUND_BYTES;
    if (size < SMALL) room = rounded(room);
    else if (size < LARGE) room = (room / STEP + 1) * STEP;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)room - AROUND_BYTES);
    if (bytes == NULL) return NULL;
    Py_SET_SIZE(bytes, size);
    PyBytes_AS_STRING(bytes)[size] = 0;
    return bytes;
}

/* The body of what is open; a new reference. */
static PyObject *body_of(const OpenLane *lane) {
    PyObject *from = lane->text ? lane->text : lane->head;
    Py_ssize_t used = lane->text ? lane->text_used : PyBytes_GET_SIZE(lane->head);
    PyObject *body = bytes_of(body_length(lane));
    if (body == NULL) return NULL;
    char *to = put(PyBytes_AS_STRING(body), PyBytes_AS_STRING(from), used);
    to = gather(to, lane->places, lane->placed, lane->count == lane->placed);
    put(to, BODY_END, BODY_END_LENGTH);
    return body;
}

PyDoc_STRVAR(take_doc,
"take(lane)\n--\n\n"
"Take out what is open in a lane: (body, ids, origins, marks). Where order is kept, these objects\n"
"are in flight until `land` is called with the marks.");

static PyObject *lanes_take(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    if (lane == NULL || !lane->count) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "nothing is open");
        return NULL;
    }
    const int is_text = !lane->placed;
    PyObject *text = lane->text, *body = is_text ? text : body_of(lane);
    PyObject *ids = ids_of(self, lane), *origins = origins_of(self, lane), *marks = NULL;
    PyObject *taken = PyTuple_New(4);
    if (body == NULL || ids == NULL || origins == NULL || taken == NULL ||
        list_flying(self, lane) < 0 || (marks = marks_of(self, lane)) == NULL) {
        if (!is_text) Py_XDECREF(body);
        Py_XDECREF(ids);
        Py_XDECREF(origins);
        Py_XDECREF(taken);
        return NULL;
    }
    if (self->keeps_order) {
        lane->unlisted = Py_NewRef(marks);
        lane->flying++;
    }
    Py_ssize_t size = body_length(lane);
    empty_lane(self, lane);
    if (!is_text) {
        Py_XDECREF(text);
    } else if (!lane->is_whole) {
        char *end = PyBytes_AS_STRING(body) + size;
        put(end - BODY_END_LENGTH, BODY_END, BODY_END_LENGTH);
        *end = 0;
        Py_SET_SIZE(body, size); /* The room that is left goes with it. */
    }
    PyTuple_SET_ITEM(taken, 0, body);
    PyTuple_SET_ITEM(taken, 1, ids);
    PyTuple_SET_ITEM(taken, 2, origins);
    PyTuple_SET_ITEM(taken, 3, marks);
    return taken;
}

PyDoc_STRVAR(body_doc, "body(lane)\n--\n\nThe body of what is open in a lane.");

static PyObject *lanes_body(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    return lane ? body_of(lane) : NULL;
}

static int compare_numbers(const void *a, const void *b) {
    const int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return (left > right) - (left < right);
}

/* How many places of a lane there are up to the last one in these chunks. */
static uint32_t places_in(const OpenLane *lane, const int64_t *numbers, size_t count) {
    const Groups *latest = NULL;
    for (uint32_t i = lane->placed; i > 0; i--) {
        const Groups *groups = lane->places[i - 1].groups;
        if (groups == latest) continue;
        const int64_t number = groups->first_origin >> INDEX_BITS;
        if (bsearch(&number, numbers, count, sizeof number, compare_numbers)) return i;
        latest = groups;
    }
    return 0;
}

/* Numbers of chunks in their order, to be freed; NULL with an exception. */
static int64_t *sorted_numbers(PyObject *given, size_t *count) {
    PyObject *sequence = PySequence_Fast(given, "numbers are a sequence");
    if (sequence == NULL) return NULL;
    *count = (size_t)PySequence_Fast_GET_SIZE(sequence);
    int64_t *numbers = PyMem_RawMalloc(*count * sizeof(int64_t));
    if (numbers == NULL) PyErr_NoMemory();
    for (size_t i = 0; numbers != NULL && i < *count; i++) {
        PyObject *item = PySequence_Fast_GET_ITEM(sequence, (Py_ssize_t)i);
        if (!PyLong_Check(item)) /* Anything else may run code to become one. */
            PyErr_SetString(PyExc_TypeError, "the number of a chunk is an integer");
        else numbers[i] = PyLong_AsLongLong(item);
        if (!PyErr_Occurred()) continue;
        PyMem_RawFree(numbers);
        numbers = NULL;
    }
    Py_DECREF(sequence);
    if (numbers != NULL) qsort(numbers, *count, sizeof(int64_t), compare_numbers);
    return numbers;
}

PyDoc_STRVAR(to_copy_doc,
"to_copy_bytes(chunk_numbers)\n--\n\n"
"What `copy_out` would copy: with the messages of these chunks, those that are open before them.");

static PyObject *lanes_to_copy_bytes(OpenLanes *self, PyObject *given) {
    size_t count;
    int64_t *numbers = sorted_numbers(given, &count);
    if (numbers == NULL) return NULL;
    Py_ssize_t size = 0;
    for (OpenLane *lane = self->oldest; lane; lane = lane->newer) {
        const uint32_t stop = places_in(lane, numbers, count);
        if (stop == lane->placed) size += lane->placed_bytes;
        else
            for (uint32_t i = 0; i < stop; i++) size += length_of(lane->places[i].record) + 1;
    }
    PyMem_RawFree(numbers);
    return PyLong_FromSsize_t(size);
}

PyDoc_STRVAR(copy_out_doc,
"copy_out(chunk_numbers)\n--\n\nCopy what is open out of these chunks, and keep hold of none of them.");

static PyObject *lanes_copy_out(OpenLanes *self, PyObject *given) {
    size_t count;
    int64_t *numbers = sorted_numbers(given, &count);
    if (numbers == NULL) return NULL;
    int failed = 0;
    for (OpenLane *lane = self->oldest; lane && !failed; lane = lane->newer)
        failed = copy_out(self, lane, places_in(lane, numbers, count)) < 0;
    PyMem_RawFree(numbers);
    return failed ? NULL : Py_NewRef(Py_None);
}

static PyObject *lanes_origins(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    return lane ? origins_of(self, lane) : NULL;
}

static PyObject *lanes_ids(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    return lane ? ids_of(self, lane) : NULL;
}

PyDoc_STRVAR(meets_doc,
"meets_flying(lane)\n--\n\n"
"Whether an object of what is open in a lane may be in flight; false means that none is.");

static PyObject *lanes_meets_flying(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    if (lane == NULL) return NULL;
    if (!lane->flying || !lane->count) Py_RETURN_FALSE;
    if (list_flying(self, lane) < 0) return NULL;
    Kept kept;
    for (Walk each = walk(lane); has_next(self, &each, &kept);)
        if (self->flying[place_of_key(self, key_of(lane, kept.id, kept.id_length))].key) Py_RETURN_TRUE;
    Py_RETURN_FALSE;
}

static PyObject *lanes_clear(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    if (lane == NULL) return NULL;
    clear_lane(self, lane);
    Py_RETURN_NONE;
}

static int is_idle(const OpenLane *lane) { return !lane->count && !lane->flying && !lane->waiting; }

PyDoc_STRVAR(land_doc,
"land(lane, marks)\n--\n\nThe objects of a batch that `take` gave are in flight no more.");

static PyObject *lanes_land(OpenLanes *self, PyObject *const *args, Py_ssize_t nargs) {
    OpenLane *lane;
    if (nargs != 2 || (lane = as_lane(self, args[0])) == NULL || !PyBytes_CheckExact(args[1]) ||
        !lane->flying) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "no such batch is in flight");
        return NULL;
    }
    lane->flying--;
    if (args[1] == lane->unlisted) {
        Py_CLEAR(lane->unlisted);
        Py_RETURN_NONE;
    }
    const char *from = PyBytes_AS_STRING(args[1]), *end = from + PyBytes_GET_SIZE(args[1]);
    for (; self->flying_room && end - from >= (Py_ssize_t)sizeof(uint64_t); from += sizeof(uint64_t)) {
        uint64_t key;
        memcpy(&key, from, sizeof key);
        take_off(self, key);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(forget_doc, "forget(lane)\n--\n\nForget a lane that holds nothing.");

static PyObject *lanes_forget(OpenLanes *self, PyObject *one) {
    OpenLane *lane = as_lane(self, one);
    if (lane == NULL) return NULL;
    uint32_t slot = 0;
    if (self->slot_count)
        slot = slot_of(self, lane->hash, lane->store, Py_SIZE(lane), lane->type);
    if (!is_idle(lane) || !self->slot_count || self->slots[slot].lane != lane) {
        PyErr_SetString(PyExc_ValueError, "only a known lane that holds nothing is forgotten");
        return NULL;
    }
    forget_slot(self, slot);
    lane->owner = NULL;
    Py_DECREF(lane);
    Py_RETURN_NONE;
}

static PyObject *lanes_all(OpenLanes *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *all = PyList_New(0);
    for (uint32_t i = 0; all != NULL && i < self->slot_count; i++)
        if (self->slots[i].lane && PyList_Append(all, (PyObject *)self->slots[i].lane) < 0)
            Py_CLEAR(all);
    return all;
}

static PyObject *lanes_open(OpenLanes *self, PyObject *Py_UNUSED(ignored)) {
    PyObject *open = PyList_New(0);
    for (OpenLane *lane = self->oldest; open != NULL && lane; lane = lane->newer)
        if (PyList_Append(open, (PyObject *)lane) < 0) Py_CLEAR(open);
    return open;
}

static PyObject *lanes_oldest(OpenLanes *self, void *Py_UNUSED(closure)) {
    return self->oldest ? Py_NewRef(self->oldest) : Py_NewRef(Py_None);
}

static PyObject *lanes_lane_count(OpenLanes *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(self->lane_count);
}

static PyObject *lanes_open_count(OpenLanes *self, void *Py_UNUSED(closure)) {
    return PyLong_FromSsize_t(self->open_count);
}

static PyObject *lanes_held_bytes(OpenLanes *self, void *Py_UNUSED(closure)) {
    return PyLong_FromSsize_t(self->held_bytes);
}

PyDoc_STRVAR(to_come_doc,
"to_come_bytes(count)\n--\n\nWhat so many bodies would take at most besides what is held.");

static PyObject *lanes_to_come_bytes(OpenLanes *self, PyObject *given) {
    Py_ssize_t count = PyLong_AsSsize_t(given);
    if (count == -1 && PyErr_Occurred()) return NULL;
    const Py_ssize_t largest = self->largest_bytes;
    const int is_all = count > 0 && largest >= self->placed_bytes / count;
    return PyLong_FromSsize_t(is_all ? self->placed_bytes : count > 0 ? count * largest : 0);
}

static PyObject *lanes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"name_lane", "batch_size", "batch_bytes", "keeps_order", NULL};
    PyObject *name_lane;
    Py_ssize_t batch_size, batch_bytes;
    int keeps_order;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "Onnp", names, &name_lane, &batch_size,
                                     &batch_bytes, &keeps_order))
        return NULL;
    if (batch_size < 1 || batch_size > INT32_MAX || batch_bytes < 1) {
        PyErr_SetString(PyExc_ValueError, "a batch has a message at least");
        return NULL;
    }
    OpenLanes *self = (OpenLanes *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->name_lane = Py_NewRef(name_lane);
    self->batch_size = batch_size;
    self->batch_bytes = batch_bytes;
    self->keeps_order = keeps_order;
    return (PyObject *)self;
}

static void lanes_dealloc(OpenLanes *self) {
    PyTypeObject *type = Py_TYPE(self);
    for (uint32_t i = 0; i < self->slot_count; i++) {
        if (!self->slots[i].lane) continue;
        clear_lane(self, self->slots[i].lane);
        self->slots[i].lane->owner = NULL; /* Others may hold it. */
        Py_DECREF(self->slots[i].lane);
    }
    PyMem_RawFree(self->slots);
    PyMem_RawFree(self->flying);
    Py_XDECREF(self->name_lane);
    type->tp_free(self);
    Py_DECREF(type);
}

static void lane_dealloc(OpenLane *self) {
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(self->unlisted);
    Py_XDECREF(self->waiting);
    Py_XDECREF(self->name);
    Py_XDECREF(self->head);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *lane_repr(OpenLane *self) {
    return PyUnicode_FromFormat("<OpenLane %R, %u open, %u in flight>", self->name, self->count,
                                self->flying);
}

static PyObject *lane_name(OpenLane *self, void *Py_UNUSED(closure)) { return Py_NewRef(self->name); }
static PyObject *lane_count(OpenLane *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(self->count);
}
static PyObject *lane_flying(OpenLane *self, void *Py_UNUSED(closure)) {
    return PyLong_FromUnsignedLong(self->flying);
}
static PyObject *lane_body_bytes(OpenLane *self, void *Py_UNUSED(closure)) {
    return PyLong_FromSsize_t(body_length(self));
}
static PyObject *lane_opened_at(OpenLane *self, void *Py_UNUSED(closure)) {
    return PyFloat_FromDouble(self->opened_at_s);
}
static PyObject *lane_is_idle(OpenLane *self, void *Py_UNUSED(closure)) {
    return PyBool_FromLong(is_idle(self));
}
static PyObject *lane_waiting(OpenLane *self, void *Py_UNUSED(closure)) {
    return self->waiting ? Py_NewRef(self->waiting) : Py_NewRef(Py_None);
}
static int lane_set_waiting(OpenLane *self, PyObject *value, void *Py_UNUSED(closure)) {
    Py_XSETREF(self->waiting, value == NULL || value == Py_None ? NULL : Py_NewRef(value));
    return 0;
}

static PyMethodDef lanes_methods[] = {
    {"add", (PyCFunction)(void (*)(void))lanes_add, METH_FASTCALL, add_doc},
    {"lane", (PyCFunction)(void (*)(void))lanes_lane, METH_FASTCALL, lane_doc},
    {"extend", (PyCFunction)lanes_extend, METH_VARARGS, extend_doc},
    {"put", (PyCFunction)lanes_put, METH_VARARGS, put_doc},
    {"take", (PyCFunction)lanes_take, METH_O, take_doc},
    {"body", (PyCFunction)lanes_body, METH_O, body_doc},
    {"to_copy_bytes", (PyCFunction)lanes_to_copy_bytes, METH_O, to_copy_doc},
    {"copy_out", (PyCFunction)lanes_copy_out, METH_O, copy_out_doc},
    {"to_come_bytes", (PyCFunction)lanes_to_come_bytes, METH_O, to_come_doc},
    {"origins", (PyCFunction)lanes_origins, METH_O,
     "origins(lane)\n--\n\nThe origins of what is open in a lane."},
    {"ids", (PyCFunction)lanes_ids, METH_O,
     "ids(lane)\n--\n\nThe ids of what is open in a lane, in one string; none where no order is kept."},
    {"meets_flying", (PyCFunction)lanes_meets_flying, METH_O, meets_doc},
    {"clear", (PyCFunction)lanes_clear, METH_O,
     "clear(lane)\n--\n\nForget what is open in a lane."},
    {"land", (PyCFunction)(void (*)(void))lanes_land, METH_FASTCALL, land_doc},
    {"forget", (PyCFunction)lanes_forget, METH_O, forget_doc},
    {"all", (PyCFunction)lanes_all, METH_NOARGS, "all()\n--\n\nAll lanes."},
    {"open", (PyCFunction)lanes_open, METH_NOARGS,
     "open()\n--\n\nThe lanes with open messages, oldest first."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef lanes_fields[] = {
    {"oldest", (getter)lanes_oldest, NULL, "The lane that has been open longest, or None.", NULL},
    {"lane_count", (getter)lanes_lane_count, NULL, "Lanes that are known.", NULL},
    {"open_count", (getter)lanes_open_count, NULL, "Lanes with open messages.", NULL},
    {"held_bytes", (getter)lanes_held_bytes, NULL, "What is open takes, but for its chunk and its place.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lanes_slots[] = {
    {Py_tp_new, lanes_new},
    {Py_tp_dealloc, lanes_dealloc},
    {Py_tp_methods, lanes_methods},
    {Py_tp_getset, lanes_fields},
    {Py_tp_doc, "The lanes of a run, and the bodies that are open in them."},
    {0, NULL},
};

PyType_Spec lanes_spec = {
    .name = "pusher._scanner.OpenLanes",
    .basicsize = sizeof(OpenLanes),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lanes_slots,
};

static PyGetSetDef lane_fields[] = {
    {"name", (getter)lane_name, NULL, "Its name.", NULL},
    {"count", (getter)lane_count, NULL, "How many messages are open.", NULL},
    {"flying", (getter)lane_flying, NULL, "How many batches of it are in flight.", NULL},
    {"body_bytes", (getter)lane_body_bytes, NULL, "What a body of what is open takes.", NULL},
    {"opened_at_s", (getter)lane_opened_at, NULL, "When the first of them came.", NULL},
    {"is_idle", (getter)lane_is_idle, NULL, "Nothing is held that a new one would not have.", NULL},
    {"waiting", (getter)lane_waiting, (setter)lane_set_waiting, "What waits, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot lane_slots[] = {
    {Py_tp_dealloc, lane_dealloc},
    {Py_tp_repr, lane_repr},
    {Py_tp_getset, lane_fields},
    {Py_tp_doc, "What one lane holds."},
    {0, NULL},
};

PyType_Spec lane_spec = {
    .name = "pusher._scanner.OpenLane",
    .basicsize = sizeof(OpenLane),
    .itemsize = 1,
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = lane_slots,
};
