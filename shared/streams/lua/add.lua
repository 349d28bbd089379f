-- ADD: a batch, its dead letters and the source's checkpoint, or nothing at all.
-- ARGV: high_water, source, expected, new, events, fields…, dead letters…
-- Returns {'OK', entry id, events in flight} | {'STALE', checkpoint} | {'FULL', events in flight}.
local high_water = number()
local source, expected, new = word(), word(), word()
local events, fields, dead = number(), list(), lists()

check_hashes(OPEN_RAW)
if #dead > 0 then check_streams(DEAD) end
local current = call('HGET', CHECKPOINT, source) or ''
if source ~= '' and current ~= expected then return { 'STALE', current } end
-- What waits for another attempt comes back to raw: without it a function that fails for every event would fill
-- the memory while its retries wait.
local held = in_flight('raw') + call('XLEN', RETRY)
if events > 0 and held >= high_water then return { 'FULL', held } end

ensure_epoch()
local id = ''
if events > 0 then id = add('raw', events, fields) end
for _, letter in ipairs(dead) do call('XADD', DEAD, '*', unpack(letter)) end
count('accepted', events + #dead)
count('dead.ingest', #dead)
if source ~= '' then call('HSET', CHECKPOINT, source, new) end
return { 'OK', id, held + events }
