-- FOREIGN (janitor): foreign entries have no line in `open`; how many wait is known from the stream's own count.
-- Those that were delivered and that no consumer holds (the group was moved, a consumer deleted by foreign hands) go
-- to the pool. When the group has read everything and holds nothing, and none is there, those that wait were
-- deleted before they were settled. A count below 0 means that the stream itself was deleted and made anew: what was
-- added before counts no more.
-- ARGV: stage, whether the ids are all that are there (0|1), ids of foreign entries…
-- Returns {moved to the pool, lost, entries of a deleted stream}.
local stage, all = word(), word() == '1'
local stream, group = STREAM[stage], GROUP[stage]
local info = find_group(stage)
if not info then return { 0, 0, 0 } end
local waiting = foreign_waiting(stage)
if waiting < 0 then
  count(stage .. '.entries', waiting)
  return { 0, 0, -waiting }
end
local moved = 0
for i = 3, #ARGV do
  local id = ARGV[i]
  local fields = body(stage, id)
  local ours = not fields or not is_foreign(fields) or call('HEXISTS', OPEN[stage], id) == 1
  if not ours and not before(info['last-delivered-id'], id) and #call('XPENDING', stream, group, id, id, 1) == 0 then
    call('XCLAIM', stream, group, RECLAIMED, 0, id, 'RETRYCOUNT', 0, 'FORCE', 'JUSTID')
    moved = moved + 1
  end
end
local unread = call('XRANGE', stream, '(' .. info['last-delivered-id'], '+', 'COUNT', 1)
local idle = call('XPENDING', stream, group)[1] == 0 and #unread == 0
if waiting == 0 or not idle or not all or #ARGV > 2 then return { moved, 0, 0 } end
ensure_epoch()
count('lost.' .. stage, waiting)
count(stage .. '.foreign', waiting)
return { 0, waiting, 0 }
