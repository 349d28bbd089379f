-- SETTLE (raw → clean): for each entry the fence, then outputs, retries and dead letters of the first
-- settlement only. Outputs of several entries share clean entries of up to `most_events` events.
-- ARGV: high_water, most_events, most_bytes, codec, entries, then for each entry:
--   id, foreign (0|1), events, accepted_ms, mapped, filtered, segments (each: events, bytes)…, retries…, dead letters…
-- Returns {'OK', events in flight, settled (0|1) for each entry…} | {'FULL', events in flight}.
local high_water, most_events, most_bytes, codec = number(), number(), number(), word()
local entries, letters = {}, 0
for i = 1, number() do
  local entry = { id = word(), foreign = word() == '1', events = number(), accepted_ms = number() }
  entry.mapped, entry.filtered = number(), number()
  entry.segments, entry.retries, entry.dead = lists(), lists(), lists()
  entry.outputs = 0
  for _, segment in ipairs(entry.segments) do entry.outputs = entry.outputs + tonumber(segment[1]) end
  if entry.mapped + entry.filtered + #entry.retries + #entry.dead ~= entry.events or entry.outputs < entry.mapped then
    return redis.error_reply('UNBALANCED ' .. entry.id .. ': outcomes do not add up to ' .. entry.events)
  end
  letters = letters + #entry.retries + #entry.dead
  entries[i] = entry
end

check_streams(RAW, CLEAN)
check_hashes(OPEN_CLEAN)
if letters > 0 then check_streams(RETRY, DEAD) end
local held = in_flight('clean')
if held >= high_water then return { 'FULL', held } end

local pending = { events = 0, bytes = 0, parts = {} }
local function flush()
  if pending.events == 0 then return end
  add('clean', pending.events, {
    'v', VERSION, 'n', pending.events, 'c', codec, 'd', table.concat(pending.parts), 't', pending.accepted_ms })
  pending = { events = 0, bytes = 0, parts = {} }
end
local function output(events, bytes, accepted_ms)
  if pending.events + events > most_events or pending.bytes + #bytes > most_bytes then flush() end
  pending.events = pending.events + events
  pending.bytes = pending.bytes + #bytes
  table.insert(pending.parts, bytes)
  pending.accepted_ms = math.min(pending.accepted_ms or accepted_ms, accepted_ms)
end

-- All fences first: HDEL and XACK are allowed at maxmemory, and once a script has written, the rest of it
-- is too. So a full server can still be drained, and never refuses half of a settlement.
local reply = { 'OK', held }
local first = {}
for i, entry in ipairs(entries) do
  local events = fence('raw', entry.id, entry.foreign)
  reply[i + 2] = events and 1 or 0
  if events then table.insert(first, entry) end
end
if #first == 0 then return reply end

ensure_epoch()
for _, entry in ipairs(first) do
  for _, segment in ipairs(entry.segments) do output(tonumber(segment[1]), segment[2], entry.accepted_ms) end
  for _, fields in ipairs(entry.retries) do call('XADD', RETRY, '*', unpack(fields)) end
  for _, fields in ipairs(entry.dead) do call('XADD', DEAD, '*', unpack(fields)) end
  reply[2] = reply[2] + entry.outputs
  count('mapped', entry.mapped)
  count('fanout', entry.outputs - entry.mapped)
  count('filtered', entry.filtered)
  count('retry.added', #entry.retries)
  count('dead.transform', #entry.dead)
end
flush()
return reply
