-- TRIM: remove entries that every group has settled, below a limit that the caller chose (retention, and a
-- bound on the work: `MINID =` takes no LIMIT). Entries added since have higher ids, so the limit stays safe.
-- ARGV: stage, limit id. Returns {trimmed, blocking group or '', id it needs}.
local stage, limit = word(), word()
local stream = STREAM[stage]
-- While the expected group is missing (a foreign XGROUP DESTROY) nothing says what is still needed.
if not find_group(stage) then return { 0, GROUP[stage], '0-0' } end
local floor, blocker = limit, ''
for _, reply in ipairs(call('XINFO', 'GROUPS', stream)) do
  local group = named(reply)
  local ms, seq = group['last-delivered-id']:match('(%d+)-(%d+)')
  local needed = ms .. '-' .. string.format('%d', tonumber(seq) + 1)
  -- Both count: a group that was moved back has pending entries above those that it reads again.
  local pending = call('XPENDING', stream, group['name'])
  if pending[1] > 0 and before(pending[2], needed) then needed = pending[2] end
  if before(needed, floor) then floor, blocker = needed, group['name'] end
end
-- Foreign entries are in no `open`, and are deleted when they are settled: one that is there is needed, although no
-- consumer may hold it any more (a group moved, a consumer deleted by foreign hands).
local from = foreign_waiting(stage) > 0 and '-'
while from do
  local page = call('XRANGE', stream, from, '(' .. floor, 'COUNT', 50)
  from = #page == 50 and '(' .. page[50][1]
  for _, entry in ipairs(page) do
    if is_foreign(entry[2]) and call('HEXISTS', OPEN[stage], entry[1]) == 0 then
      floor, blocker, from = entry[1], GROUP[stage], nil
      break
    end
  end
end
return { call('XTRIM', stream, 'MINID', floor), blocker, floor }
