-- FOREIGN (janitor): foreign entries have no line in `open`; how many wait is known from the stream's own count.
-- When the group has read everything and holds nothing, none may wait: those that are there go to the pool
-- (the group was moved, a consumer deleted by foreign hands), and what is not there was deleted before it was settled.
-- A count below 0 means that the stream itself was deleted and made anew: what was added before counts no more.
-- ARGV: stage, ids of the foreign entries that are there… Returns {moved to the pool, lost, entries of a deleted stream}.
local stage = word()
local stream, group = STREAM[stage], GROUP[stage]
local info = find_group(stage)
if not info then return { 0, 0, 0 } end
local state = named(call('XINFO', 'STREAM', stream))
local figures = call('HMGET', LEDGER, stage .. '.entries', stage .. '.foreign')
local waiting = state['entries-added'] - tonumber(figures[1] or 0) - tonumber(figures[2] or 0)
if waiting < 0 then
  count(stage .. '.entries', waiting)
  return { 0, 0, -waiting }
end
local unread = call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)
local idle = call('XPENDING', stream, group)[1] == 0 and #unread == 0
if waiting == 0 or not idle then return { 0, 0, 0 } end
local moved = 0
for i = 2, #ARGV do
  local fields = body(stage, ARGV[i])
  if fields and is_foreign(fields) and call('HEXISTS', OPEN[stage], ARGV[i]) == 0 then
    call('XCLAIM', stream, group, RECLAIMED, 0, ARGV[i], 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    moved = moved + 1
  end
end
if #ARGV > 1 then return { moved, 0, 0 } end
ensure_epoch()
count('lost.' .. stage, waiting)
count(stage .. '.foreign', waiting)
return { 0, waiting, 0 }
