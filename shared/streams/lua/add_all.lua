-- ADD_ALL: several batches and the source's checkpoint, or nothing at all.
-- ARGV: high_water, source, expected, new, events of each batch…, fields of each batch…
-- Returns {'OK', '', events in flight} | {'STALE', checkpoint} | {'FULL', events in flight}.
local high_water = number()
local source, expected, new = word(), word(), word()
local events, batches = list(), lists()

check_hashes(OPEN_RAW)
local current = call('HGET', CHECKPOINT, source) or ''
if current ~= expected then return { 'STALE', current } end
local held = in_flight('raw') + call('XLEN', RETRY)
if held >= high_water then return { 'FULL', held } end

ensure_epoch()
local all = 0
for i, fields in ipairs(batches) do
  add('raw', tonumber(events[i]), fields)
  all = all + tonumber(events[i])
end
count('accepted', all)
call('HSET', CHECKPOINT, source, new)
return { 'OK', '', held + all }
