-- RELEASE: hand what a consumer holds to the pool of reclaimed entries, delivery counts kept. A worker does so
-- when it starts: what its name holds then was in the hands of a process that is gone.
-- ARGV: stage, consumer, most. Returns the number of entries moved.
local stage, me, most = word(), word(), number()
local moved = 0
for _, entry in ipairs(call('XPENDING', STREAM[stage], GROUP[stage], '-', '+', most, me)) do
  moved = moved + #call('XCLAIM', STREAM[stage], GROUP[stage], RECLAIMED, 0, entry[1], 'JUSTID')
end
return moved
