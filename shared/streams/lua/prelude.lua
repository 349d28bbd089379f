-- Put before every script. All keys of a partition, always in this order (shared/topology.py).
-- No shebang line: a script that has one is refused at maxmemory, and then nothing could drain.
local RAW, CLEAN, OPEN_RAW, OPEN_CLEAN, LEDGER = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local RETRY, DEAD, CHECKPOINT, LEASE_PREFIX, LEASED_PREFIX = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local BREAKER = KEYS[11]
local STREAM = { raw = RAW, clean = CLEAN }
local OPEN = { raw = OPEN_RAW, clean = OPEN_CLEAN }
local GROUP = { raw = 'transform', clean = 'loader' }
local RECLAIMED = '~reclaimed'
local call = redis.call

local function count(field, events)
  if events ~= 0 then call('HINCRBY', LEDGER, field, events) end
end

-- A script that fails in its middle keeps what it wrote until then, so a key that holds something else
-- (of another program) has to fail before the first write. Those that are read before it fail by themselves: a look
-- at all that there are was a seventh of a small `add`.
local function check_streams(...)
  for _, stream in ipairs({ ... }) do call('XLEN', stream) end
end
local function check_hashes(...)
  for _, hash in ipairs({ ... }) do call('HLEN', hash) end
end

-- An epoch lives as long as its ledger: a flush, a rewind or a failover ends it.
local function ensure_epoch()
  if call('HEXISTS', LEDGER, 'epoch') == 0 then
    local time = call('TIME')
    call('HSET', LEDGER, 'epoch', time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000)))
  end
end

local function in_flight(stage)
  local figures = call('HMGET', LEDGER, stage .. '.added', stage .. '.settled')
  return tonumber(figures[1] or 0) - tonumber(figures[2] or 0)
end

-- Add an entry of `events` events. The entry and its line in `open` are written together.
local function add(stage, events, fields)
  local id = call('XADD', STREAM[stage], '*', unpack(fields))
  call('HSET', OPEN[stage], id, events)
  count(stage .. '.added', events)
  count(stage .. '.entries', 1)
  return id
end

-- The fence: the number of events if this call is the first settlement of the entry, else nil.
-- XACK returning 1 proves nothing (after a group is made anew at 0 settled entries ack again).
-- A foreign entry is in no `open`: deleting it is its fence.
local function fence(stage, id, foreign)
  local stream = STREAM[stage]
  if foreign then
    local first = call('XDEL', stream, id) == 1
    call('XACK', stream, GROUP[stage], id)
    if not first then return nil end
    count(stage .. '.foreign', 1)
    return 1
  end
  local events = call('HGET', OPEN[stage], id)
  if events then call('HDEL', OPEN[stage], id) end
  call('XACK', stream, GROUP[stage], id)
  if not events then return nil end
  count(stage .. '.settled', tonumber(events))
  return tonumber(events)
end

-- Arguments are read one after another; lists are a length and its items.
local cursor = 0
local function word()
  cursor = cursor + 1
  return ARGV[cursor]
end
local function number() return tonumber(word()) end
local function list()
  local length = number()
  local items = {}
  for i = 1, length do items[i] = word() end
  return items
end
local function lists()
  local length = number()
  local items = {}
  for i = 1, length do items[i] = list() end
  return items
end

local function body(stage, id)
  local found = call('XRANGE', STREAM[stage], id, id)
  if #found == 0 then return nil end
  return found[1][2]
end

-- Ids are compared as numbers: milliseconds, then sequence.
local function before(a, b)
  local a_ms, a_seq = a:match('(%d+)-(%d+)')
  local b_ms, b_seq = b:match('(%d+)-(%d+)')
  if a_ms ~= b_ms then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
end

-- XINFO's reply, like an entry, is a list of names and values.
local function named(reply)
  local fields = {}
  for i = 1, #reply, 2 do fields[reply[i]] = reply[i + 1] end
  return fields
end

-- The format that entries are written in, and those that are read; the same as in shared/entries.py.
local VERSION = '1'
local READABLE = { ['1'] = true }

-- A foreign entry may have fields named like some of ours (`k`, `v`). The same rule as in shared/entries.py.
local function is_foreign(reply)
  local fields = named(reply)
  local function whole(text) return text and #text <= 5 and text:match('^[1-9]%d*$') end
  local codec = fields['c'] or 'json'
  return not (fields['v'] and READABLE[fields['v']] and whole(fields['n']) and tonumber(fields['n']) <= 500 and fields['d']
    and (codec == 'json' or codec == 'zstd'))
end

-- Foreign entries that were added and not settled: they are in no `open`, but the stream counts what is added.
local function foreign_waiting(stage)
  local figures = call('HMGET', LEDGER, stage .. '.entries', stage .. '.foreign')
  local state = named(call('XINFO', 'STREAM', STREAM[stage]))
  return state['entries-added'] - tonumber(figures[1] or 0) - tonumber(figures[2] or 0)
end

local function find_group(stage)
  if call('EXISTS', STREAM[stage]) == 0 then return nil end
  for _, reply in ipairs(call('XINFO', 'GROUPS', STREAM[stage])) do
    local group = named(reply)
    if group['name'] == GROUP[stage] then return group end
  end
  return nil
end
