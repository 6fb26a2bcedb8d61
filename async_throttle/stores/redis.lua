-- What a store does, for Redis >= 6.2 and Valkey: the twin of _state.py, which says what all of it
-- means. The same functions with the same names, in the same order; those that few calls need are
-- below, in `seldom`. tests/test_store_twins.py holds the two together. Here alone: how a state is
-- packed, and how replies are written.
--
-- KEYS     of the limits, in the order of the request
-- ARGV[1]  the request, as JSON; "" to have the states told, see `look`
-- ARGV[2]  the time, in microseconds, instead of that of the server; nothing expires then. Else ""
-- ARGV[3]  what channels begin with: an address follows; "" if nobody is to be woken
--
-- Rights that suffice: +eval +evalsha +time +get +set +publish

local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min
local format, insert, remove, concat = string.format, table.insert, table.remove, table.concat

local KIND, CAPACITY, PERIOD, BURST, SLOTS, SCALE, GRAIN, ENDS = 1, 2, 3, 4, 5, 6, 7, 8
local NAME, SEQ, DONE, SEEN, TTL, HELD, FLYING, WAITING = 1, 2, 3, 4, 5, 6, 7, 8
local TURN, LACKS_SLOTS, LACKS_WEIGHT, WOKEN = 9, 10, 11, 12
local MISSING, AT, ISSUED, DEAD, LOWS = 1, 2, 3, 4, 5 -- of a bucket
local USED, OPENS, CLOSES, GRACE = 1, 2, 3, 4 -- of a fixed window, or one on the clock
local NO_RATE, BUCKET, SLIDING, FIXED, CLOCK = 0, 1, 2, 3, 4
local STALE, LOST_LEASE, LOST_STATE, MISMATCH = 1, 2, 3, 4
local MOST_GROUPS, MOST_LOWS, PARTS = 200, 6, 1000
local PATIENCE, LONG, FOREVER = 250000, 30 * 86400 * 1000000, 4e15
local NEVER, BEHIND = -1, -2

-- Functions are made anew in each call, which takes a part of its time. So what few calls need is
-- made when it is first asked for, in `seldom`; and what all functions share is local out here, as
-- Lua finds by a search what a function takes from those next to it.
local rest = {}
local seldom = setmetatable({}, rest)

return (function()

-- -- sessions come in

-- Parameters, sessions and rates are lists, as they are packed; states are tables. The sessions are
-- in the order in which they came. The rate of a sliding window is the list of its pairs.
local function find(state, name)
  local sessions = state.sessions
  for n = 1, #sessions do
    if sessions[n][NAME] == name then return sessions[n] end
  end
end

local function same(one, other)
  if one == other then return true end
  for n = 1, ENDS do
    if one[n] ~= other[n] then return false end
  end
  return true
end

local function mark_of(now, asked, state)
  if state then
    local mine = find(state, asked.id)
    if mine and asked.seq <= mine[SEQ] then return STALE end
    if asked.open == 2 and not same(asked.code, state.code) then return MISMATCH end
    if asked.gen == state.gen then return 0 end
  end
  return (asked.gen ~= 0 and now < asked['until']) and LOST_STATE or 0
end

local function bury(now, asked, state)
  local dead
  for _, other in ipairs(state.sessions) do
    dead = dead or other[SEEN] + other[TTL] <= now
  end
  if not dead then return end
  local sessions = state.sessions
  state.sessions = {}
  dead = {}
  for _, other in ipairs(sessions) do
    insert(other[SEEN] + other[TTL] <= now and dead or state.sessions, other)
  end
  for _, other in ipairs(dead) do
    if other[NAME] ~= asked.id and other[FLYING] > 0 then
      seldom.charge(now, asked, state, other[FLYING])
    end
  end
end

local function enter(now, asked, state, mark)
  local name = asked.id
  if asked.open ~= 0 and not same(asked.code, state.code) then
    seldom.configure(now, asked, state, asked.code)
    state.code = state.set
  end
  if mark == LOST_STATE and state.shy <= now then
    seldom.empty(now, asked, state)
    state.shy = now + floor(asked.ttl / 3)
  end
  bury(now, asked, state)
  if name == '' then return mark end
  local mine = find(state, name)
  if not mine then
    if mark == 0 and asked.gen ~= 0 and (asked.held > 0 or asked.flying > 0) then
      mark = LOST_LEASE
    end
    mine = {name, 0, asked.first, 0, 0, 0, 0, 0, 0, 0, 0, 0}
    insert(state.sessions, mine)
  elseif asked.held < mine[HELD] then
    mine[TURN] = 0
  end
  mine[SEQ] = asked.seq
  mine[SEEN] = now
  mine[TTL] = asked.ttl
  mine[HELD] = asked.held
  mine[FLYING] = asked.flying
  mine[WAITING] = asked.waiting
  mine[WOKEN] = 0
  return mark
end

local function keep_time(now, asked, state, grace)
  local by = now - state.last
  if by >= 0 then
    by = 0
    local mine = find(state, asked.id)
    if mine and asked.since > 0 then
      by = now - mine[SEEN] - asked.since
      if by <= asked.ttl / 3 then by = 0 end
    end
  end
  if by ~= 0 then seldom.shift(state, by) end
  state.last = now
  if state.set[KIND] == SLIDING then
    local entries, period = state.rate, state.set[PERIOD]
    while entries[1] and entries[1][1] + period <= now do remove(entries, 1) end
  elseif state.set[KIND] == FIXED then
    state.rate[GRACE] = grace
  end
end

-- -- operations

local function apply(now, asked, state, wakes)
  if state.empties ~= 0 then seldom.end_pause(now, asked, state) end
  if not asked.ops[1] then return end
  local mine = find(state, asked.id)
  local done = mine and mine[DONE] or asked.first
  local number = asked.first
  for i = 1, #asked.ops do
    local op = asked.ops[i]
    number = number + 1
    if number > done then
      local what = op[1]
      if what == 'back' then
        seldom.refund(state, op[2], op[3])
      elseif what == 'charge' or what == 'end' then
        seldom.charge(now, asked, state, op[2])
      elseif what == 'lower' then
        seldom.lower(now, asked, state, op[2], op[3], op[4])
      elseif what == 'empty' then
        seldom.empty(now, asked, state)
      else
        seldom.govern(now, asked, state, op)
        for _, other in ipairs(state.sessions) do
          if other[NAME] ~= asked.id then wakes[other[NAME]] = true end
        end
      end
    end
  end
  if mine then mine[DONE] = max(done, number) end
end

local missing_of

-- -- rates

local function room_of(set)
  return set[BURST] * set[GRAIN]
end

function missing_of(set, rate, at)
  local missing = rate[MISSING] - (at - rate[AT]) * set[SCALE]
  return missing <= -set[SCALE] and 0 or missing
end

local function ready_at(asked, state, at, weight, flying)
  local set, rate = state.set, state.rate
  local kind = set[KIND]
  if kind == NO_RATE or weight < 0 then return at end
  local wanted = flying + weight
  if wanted > set[BURST] then return NEVER end
  if kind == BUCKET then
    local excess = missing_of(set, rate, at) + wanted * set[GRAIN] - room_of(set)
    return excess <= 0 and at or min(FOREVER, at + ceil(excess / set[SCALE]))
  end
  at = seldom.open_at(asked, set, rate, at)
  while at < FOREVER do
    local over = seldom.used_of(asked, set, rate, at) + wanted - set[CAPACITY]
    if over <= 0 then break end
    at = seldom.open_at(asked, set, rate, seldom.next_change(asked, set, rate, at, over))
  end
  return at
end

local function fitting_of(asked, state, at, weight, flying)
  local set, rate = state.set, state.rate
  if set[KIND] == NO_RATE or weight <= 0 then return FOREVER end
  if set[KIND] == BUCKET then
    local room = room_of(set) - max(0, missing_of(set, rate, at)) - flying * set[GRAIN]
    return max(1, floor(room / (weight * set[GRAIN])))
  end
  local room = set[CAPACITY] - seldom.used_of(asked, set, rate, at) - flying
  return max(1, floor(room / weight))
end

local note

local function take(asked, state, at, weight, grace)
  local set, rate = state.set, state.rate
  local kind = set[KIND]
  if kind == BUCKET then
    local missing = missing_of(set, rate, at)
    note(rate, missing)
    rate[MISSING] = missing + weight * set[GRAIN]
    rate[AT] = at
    rate[ISSUED] = rate[ISSUED] + 1
    return rate[ISSUED]
  end
  if kind == NO_RATE or weight <= 0 then return 0 end
  if kind == SLIDING then return seldom.stamp_of(set, rate, at + grace, weight) end
  local used = seldom.used_of(asked, set, rate, at)
  if kind == FIXED and (used <= 0 or rate[CLOSES] <= at) then
    rate[OPENS] = at
    rate[CLOSES] = at + set[PERIOD] + rate[GRACE]
  end
  if kind == CLOCK then
    for i = 1, #asked.edges do
      local edge = asked.edges[i]
      if rate[OPENS] < edge[1] and edge[1] <= at then
        rate[OPENS] = edge[1]
        rate[CLOSES] = edge[3]
      end
    end
  end
  rate[USED] = used + weight
  return rate[OPENS]
end

function note(rate, missing)
  if missing <= 0 then
    rate[DEAD] = rate[ISSUED]
    rate[LOWS] = {}
    return
  end
  local lows = rate[LOWS]
  while #lows > 0 and lows[#lows][2] >= missing do remove(lows) end
  local last = #lows > 0 and lows[#lows][1] or rate[DEAD]
  if rate[ISSUED] > last then
    insert(lows, {rate[ISSUED], missing})
    if #lows > MOST_LOWS then
      local n = 2
      for m = 3, #lows do
        if lows[m][2] - lows[m - 1][2] < lows[n][2] - lows[n - 1][2] then n = m end
      end
      lows[n][2] = min(lows[n - 1][2], lows[n][2])
      remove(lows, n - 1)
    end
  end
end

-- -- who gets what

local function sums_of(state)
  local held, flying, lasts, queue = 0, 0, 0, {}
  local sessions = state.sessions
  for n = 1, #sessions do
    local each = sessions[n]
    held = held + each[HELD]
    flying = flying + each[FLYING]
    if each[SEEN] + each[TTL] > lasts then lasts = each[SEEN] + each[TTL] end
    if each[TURN] > 0 then insert(queue, each) end
  end
  if queue[2] then table.sort(queue, function(one, other) return one[TURN] < other[TURN] end) end
  return {held = held, flying = flying, queue = queue, lasts = lasts}
end

local function share_of(now, asked, state, sums)
  local set = state.set
  local free = (set[SLOTS] > 0 and set[SLOTS] or FOREVER) - sums.held
  local flying = set[ENDS] ~= 0 and sums.flying or 0
  for _, other in ipairs(sums.queue) do
    if other[NAME] == asked.id then break end
    if not seldom.is_deaf(now, other) then
      free = free - other[LACKS_SLOTS]
      flying = flying + other[LACKS_WEIGHT]
    end
  end
  return {free, flying}
end

local soonest, reach_of, fit, grant, line_up, level_of, stock_of

local function book(now, request, known, sums, stocks)
  local asked, horizon, grace = request.limits, request.horizon, request.grace
  local shares = {}
  for n = 1, #asked do shares[n] = share_of(now, asked[n], known[n], sums[n]) end
  local blocked, lacking, replies = {}, {}, {}
  for i = 1, #request.wants do
    local want = request.wants[i]
    local left, amounts = want[1], want[2]
    local groups, when = {}, 0
    for i = 1, #amounts do
      local amount = amounts[i]
      if blocked[amount[1]] then when = BEHIND end
    end
    while left > 0 and when == 0 do
      local at = soonest(now, asked, known, shares, amounts, lacking)
      if at == NEVER then
        when = NEVER
      elseif at >= FOREVER then
        when = PATIENCE
      elseif #groups >= MOST_GROUPS
        or (at > now and at > now + reach_of(now, request, known, shares, amounts)) then
        local early = max(0, min(horizon, reach_of(now, request, known, shares, amounts)))
        early = early * (#groups > 0 and 0.5 or 0.75)
        when = max(1, ceil(at - now - early))
      else
        local fitting = fit(asked, known, shares, amounts, at, left)
        local group = {format('[%d,%d', at - now, fitting)}
        for i = 1, #amounts do
          local amount = amounts[i]
          local n = amount[1] + 1
          local weight, slots = amount[2] * fitting, amount[3] * fitting
          local receipt = grant(asked[n], known[n], sums[n], shares[n], at, weight, slots, grace)
          insert(group, format('%d', receipt))
        end
        insert(groups, concat(group, ',') .. ']')
        left = left - fitting
      end
    end
    if when ~= 0 then
      for i = 1, #amounts do blocked[amounts[i][1]] = true end
    end
    insert(replies, format('[[%s],%d]', concat(groups, ','), when))
  end
  for n = 1, #asked do
    if asked[n].ahead > 0 and not blocked[n - 1] then
      stocks[n] = stock_of(now, asked[n], known[n], grace)
    end
  end
  if horizon >= 0 then line_up(asked, known, lacking) end
  return replies
end

function stock_of(now, asked, state, grace)
  local set = state.set
  if set[KIND] == NO_RATE or set[ENDS] ~= 0 or state.pause > now then return nil end
  local rest = #state.sessions > 1 and set[BURST] / 2 or 0
  local weight = min(asked.ahead, floor(level_of(now, asked, state, 0) - rest))
  if weight < 1 or ready_at(asked, state, now, weight, 0) ~= now then return nil end
  return {take(asked, state, now, weight, grace), weight}
end

function soonest(now, asked, known, shares, amounts, lacking)
  local at, missing = now, false
  for i = 1, #amounts do
    local amount = amounts[i]
    local n, slots = amount[1] + 1, amount[3]
    if known[n].pause > at then at = known[n].pause end
    if slots > 0 then
      if known[n].shy > at then at = known[n].shy end
      if slots > shares[n][1] then
        lacking[n] = {slots, 0}
        missing = true
      end
    end
  end
  if missing or at >= FOREVER then return NEVER end
  local before = NEVER
  while at ~= before and at < FOREVER do
    before = at
    for i = 1, #amounts do
      local amount = amounts[i]
      local n, weight = amount[1] + 1, amount[2]
      at = ready_at(asked[n], known[n], at, weight, shares[n][2])
      if at == NEVER then
        lacking[n] = {0, weight}
        return NEVER
      end
    end
    if #amounts == 1 then return at end
  end
  return at
end

function reach_of(now, request, known, shares, amounts)
  local reach = request.horizon
  if reach < 0 then return 0 end
  for i = 1, #amounts do
    local amount = amounts[i]
    local set, weight = known[amount[1] + 1].set, amount[2]
    if set[KIND] ~= NO_RATE and weight > 0 then
      local lasts = ceil(weight * set[PERIOD] / set[CAPACITY])
      if lasts > request.horizon then reach = max(reach, request.horizon + lasts) end
    end
  end
  for i = 1, #amounts do
    local amount = amounts[i]
    local state, slots = known[amount[1] + 1], amount[3]
    if (state.empties ~= 0 and state.pause > now) or (slots > 0 and state.shy > now) then
      return 0
    end
    if slots > 0 and slots * 2 > shares[amount[1] + 1][1] then reach = min(reach, request.grace) end
  end
  return reach
end

function fit(asked, known, shares, amounts, at, left)
  local fitting = left
  for i = 1, #amounts do
    local amount = amounts[i]
    local n, weight, slots = amount[1] + 1, amount[2], amount[3]
    if slots > 0 and slots * fitting > shares[n][1] then fitting = floor(shares[n][1] / slots) end
    if fitting > 1 then
      fitting = min(fitting, fitting_of(asked[n], known[n], at, weight, shares[n][2]))
    end
  end
  return fitting
end

function grant(asked, state, sums, share, at, weight, slots, grace)
  if slots > 0 or state.set[ENDS] ~= 0 then
    local mine = find(state, asked.id)
    if slots > 0 then
      share[1] = share[1] - slots
      sums.held = sums.held + slots
      mine[HELD] = mine[HELD] + slots
      mine[TURN] = 0
    end
    if weight > 0 and state.set[ENDS] ~= 0 then
      share[2] = share[2] + weight
      sums.flying = sums.flying + weight
      mine[FLYING] = mine[FLYING] + weight
      return 0
    end
  end
  return weight >= 0 and take(asked, state, at, weight, grace) or 0
end

function line_up(asked, known, lacking)
  for n = 1, #asked do
    local mine = find(known[n], asked[n].id)
    if mine then
      if not lacking[n] then
        mine[TURN] = 0
      else
        if mine[TURN] == 0 then
          known[n].turns = known[n].turns + 1
          mine[TURN] = known[n].turns
        end
        mine[LACKS_SLOTS], mine[LACKS_WEIGHT] = lacking[n][1], lacking[n][2]
      end
    end
  end
end

-- -- what is told

local function lasts_until(now, state, sums)
  local set, rate, till = state.set, state.rate, sums.lasts
  local kind = set[KIND]
  if state.shy > till then till = state.shy end
  if state.pause > till then till = state.pause end
  if till >= FOREVER or not same(set, state.code) then return now + LONG end
  if kind == BUCKET then
    if rate[MISSING] - (till - rate[AT]) * set[SCALE] > 0 then
      till = rate[AT] + ceil(rate[MISSING] / set[SCALE])
    end
  elseif kind == SLIDING then
    local last = rate[#rate]
    if last then till = max(till, last[1] + set[PERIOD]) end
  elseif kind ~= NO_RATE and rate[USED] > 0 then
    local windows = ceil(rate[USED] / set[CAPACITY])
    till = max(till, rate[CLOSES] + (windows - 1) * set[PERIOD])
  end
  return till < now + LONG and till or now + LONG
end

function level_of(now, asked, state, flying)
  local set, rate = state.set, state.rate
  if set[KIND] == NO_RATE then return 0 end
  local left
  if set[KIND] == BUCKET then
    local lacking = ceil(missing_of(set, rate, now) / set[GRAIN])
    left = set[BURST] - (lacking > 0 and lacking or 0)
  else
    left = set[CAPACITY] - seldom.used_of(asked, set, rate, now)
  end
  return set[ENDS] ~= 0 and left - flying or left
end

local function told(now, asked, state, sums, mark, lasting, stock)
  local mine, queue = find(state, asked.id), sums.queue
  local others = #queue
  for n = 1, #queue do
    if queue[n] == mine then others = others - 1 end
  end
  local paused = 0
  if state.pause > now then paused = state.pause >= FOREVER and NEVER or state.pause - now end
  local news = asked.version ~= state.version or mark ~= 0
  return format(
    '[%d,%.17g,%d,%d,%.17g,%d,%d,%d,%.17g,%d,%d,%d,%s,%s,%d,%d]',
    mark, state.gen, mine and mine[DONE] or asked.first, max(0, lasting - now),
    level_of(now, asked, state, sums.flying), paused, mine and mine[HELD] or 0, sums.held,
    sums.flying, #state.sessions, others, news and state.version or 0,
    news and seldom.numbers(state.code) or '[]', news and seldom.numbers(state.set) or '[]',
    stock and stock[1] or 0, stock and stock[2] or 0
  )
end

-- -- in and out

-- What is packed is short: instants are spans before that of the last step, the burst is 0 where it
-- is the capacity, and what is seldom there comes last, where it is left out. A state is not used
-- after it was packed.

local function spans(last, kind, rate, sessions)
  if kind == BUCKET then
    rate[AT] = last - rate[AT]
    rate[DEAD] = rate[ISSUED] - rate[DEAD]
  elseif kind == SLIDING then
    for n = 1, #rate do rate[n][1] = last - rate[n][1] end
  elseif kind == FIXED or kind == CLOCK then
    rate[OPENS] = last - rate[OPENS]
    rate[CLOSES] = last - rate[CLOSES]
  end
  for n = 1, #sessions do sessions[n][SEEN] = last - sessions[n][SEEN] end
end

local function pack(state)
  local code, set, last, sessions = state.code, state.set, state.last, state.sessions
  spans(last, set[KIND], state.rate, sessions)
  local list = {state.gen, last, code, state.rate}
  if sessions[1] then list[5] = sessions end
  local others = {
    state.turns, state.version - 1, same(set, code) and 0 or set,
    state.pause, state.empties, state.shy,
  }
  local n = #others
  while others[n] == 0 do
    others[n] = nil
    n = n - 1
  end
  if n > 0 then
    list[5] = sessions
    list[6] = others
  end
  if code[BURST] == code[CAPACITY] then code[BURST] = 0 end
  return cmsgpack.pack(list)
end

local function unpack(blob)
  local list = cmsgpack.unpack(blob)
  local last, code, rate = list[2], list[3], list[4]
  local sessions, others = list[5] or {}, list[6] or {}
  if code[BURST] == 0 then code[BURST] = code[CAPACITY] end
  local set = others[3]
  if not set or set == 0 then set = code end
  spans(last, set[KIND], rate, sessions)
  return {
    gen = list[1], last = last, code = code, set = set, rate = rate, sessions = sessions,
    turns = others[1] or 0, version = (others[2] or 0) + 1, pause = others[4] or 0,
    empties = others[5] or 0, shy = others[6] or 0,
  }
end

-- -- what few calls need

function rest.__index(_, name)

  function seldom.blank(now, code, generation)
    return {
      gen = generation, code = code, set = code, version = 1, last = now,
      rate = seldom.begin(code, now), pause = 0, empties = 0, shy = 0, turns = 0, sessions = {},
    }
  end

  function seldom.shift(state, by)
    local rate, kind = state.rate, state.set[KIND]
    if kind == BUCKET then
      rate[AT] = rate[AT] + by
    elseif kind == SLIDING then
      for i = 1, #rate do rate[i][1] = rate[i][1] + by end
    elseif kind == FIXED then
      rate[OPENS] = rate[OPENS] + by
      rate[CLOSES] = rate[CLOSES] + by
    end
    if 0 < state.pause and state.pause < FOREVER then state.pause = max(0, state.pause + by) end
    if state.shy > 0 then state.shy = max(0, state.shy + by) end
    for _, other in ipairs(state.sessions) do
      other[SEEN] = other[SEEN] + by
      other[WOKEN] = 0
    end
  end

  function seldom.govern(now, asked, state, op)
    local what = op[1]
    if what == 'pause' then
      local till = op[2] < 0 and FOREVER or now + op[2]
      state.pause = max(state.pause, till)
      state.empties = max(state.empties, op[3])
    elseif what == 'resume' then
      state.pause = min(state.pause, now)
    elseif what == 'set' then
      seldom.configure(now, asked, state, op[2])
    elseif what == 'reset' then
      seldom.configure(now, asked, state, state.code)
      seldom.refill(now, state)
      state.pause, state.empties = 0, 0
    end
    seldom.end_pause(now, asked, state)
  end

  function seldom.end_pause(now, asked, state)
    if state.empties ~= 0 and state.pause <= now then
      seldom.empty(state.pause, asked, state)
      state.empties = 0
    end
  end

  function seldom.configure(now, asked, state, parameters)
    local old, new, rate = state.set, parameters, state.rate
    state.set = new
    state.version = state.version + 1
    if old[KIND] ~= new[KIND] then
      state.rate = seldom.begin(new, now)
      if old[KIND] ~= NO_RATE then seldom.empty(now, asked, state) end
    elseif new[KIND] == BUCKET then
      local level = old[BURST] - ceil(max(0, missing_of(old, rate, now)) / old[GRAIN])
      rate[MISSING] = max(0, new[BURST] - level) * new[GRAIN]
      rate[AT] = now
      rate[DEAD] = rate[ISSUED]
      rate[LOWS] = {}
    elseif new[KIND] == FIXED then
      if rate[CLOSES] <= now then
        rate[USED] = seldom.used_of(asked, old, rate, now)
        rate[OPENS] = now
        rate[CLOSES] = now + old[PERIOD] + rate[GRACE]
      end
      rate[CLOSES] = rate[CLOSES] + (new[PERIOD] - old[PERIOD])
    end
  end

  function seldom.refill(now, state)
    local rate = state.rate
    if state.set[KIND] == BUCKET then
      rate[MISSING], rate[AT], rate[DEAD], rate[LOWS] = 0, now, rate[ISSUED], {}
    else
      state.rate = seldom.begin(state.set, now)
    end
  end

  function seldom.begin(set, now)
    if set[KIND] == BUCKET then return {0, now, 0, 0, {}} end
    if set[KIND] == FIXED or set[KIND] == CLOCK then return {0, 0, 0, 0} end
    return {}
  end

  function seldom.used_of(asked, set, rate, at)
    local kind, used = set[KIND], 0
    if kind == SLIDING then
      for i = 1, #rate do
        local entry = rate[i]
        if entry[1] + set[PERIOD] > at then used = used + entry[2] end
      end
      return used
    end
    used = rate[USED]
    if kind == FIXED then
      if used > 0 and rate[CLOSES] <= at then
        used = used - (floor((at - rate[CLOSES]) / set[PERIOD]) + 1) * set[CAPACITY]
      end
    else
      for i = 1, #asked.edges do
        local edge = asked.edges[i]
        if rate[OPENS] < edge[1] and edge[1] <= at then used = used - set[CAPACITY] end
      end
    end
    return max(0, used)
  end

  function seldom.next_change(asked, set, rate, at, over)
    local kind = set[KIND]
    if kind == SLIDING then
      for i = 1, #rate do
        local entry = rate[i]
        if entry[1] + set[PERIOD] > at then
          over = over - entry[2]
          if over <= 0 then return entry[1] + set[PERIOD] end
        end
      end
      return FOREVER
    end
    if kind == FIXED then
      local ends = rate[CLOSES]
      local windows = ceil(over / set[CAPACITY]) - 1
      if ends <= at then windows = windows + (floor((at - ends) / set[PERIOD]) + 1) end
      return min(FOREVER, ends + windows * set[PERIOD])
    end
    for i = 1, #asked.edges do
      local edge = asked.edges[i]
      if edge[1] > at then return edge[1] end
    end
    return FOREVER
  end

  function seldom.open_at(asked, set, rate, at)
    local kind = set[KIND]
    if kind == FIXED then
      if at <= rate[OPENS] then return rate[OPENS] end
      if rate[USED] > 0 and at + rate[GRACE] >= rate[OPENS] + set[PERIOD] then
        return max(at, rate[CLOSES])
      end
    end
    if kind == CLOCK then
      for i = 1, #asked.edges do
        local edge = asked.edges[i]
        if edge[1] >= rate[OPENS] and at < edge[2] then return max(at, edge[1]) end
      end
      return FOREVER
    end
    return at
  end

  function seldom.stamp_of(set, rate, stamp, weight)
    local part = max(1, floor(set[PERIOD] / PARTS))
    stamp = ceil(stamp / part) * part
    local entries = rate
    local n = #entries
    while n > 0 and entries[n][1] > stamp do n = n - 1 end
    if n > 0 and entries[n][1] == stamp then
      entries[n][2] = entries[n][2] + weight
    else
      insert(entries, n + 1, {stamp, weight})
    end
    return stamp
  end

  function seldom.charge(now, asked, state, weight)
    if state.set[KIND] == CLOCK then now = seldom.open_at(asked, state.set, state.rate, now) end
    if weight > 0 then take(asked, state, now, weight, 0) end
  end

  function seldom.refund(state, receipt, weight)
    local set, rate = state.set, state.rate
    local kind = set[KIND]
    if kind == BUCKET and rate[DEAD] < receipt and receipt <= rate[ISSUED] then
      local worth = weight * set[GRAIN]
      for i = 1, #rate[LOWS] do
        local low = rate[LOWS][i]
        if receipt <= low[1] then worth = min(worth, low[2]) end
      end
      worth = max(0, worth)
      rate[MISSING] = rate[MISSING] - worth
      for i = 1, #rate[LOWS] do
        local low = rate[LOWS][i]
        if receipt <= low[1] then low[2] = low[2] - worth end
      end
    elseif kind == SLIDING then
      for i = 1, #rate do
        local entry = rate[i]
        if entry[1] == receipt then entry[2] = max(0, entry[2] - weight) end
      end
    elseif (kind == FIXED or kind == CLOCK) and receipt == rate[OPENS] then
      rate[USED] = max(0, rate[USED] - weight)
    end
  end

  function seldom.lower(now, asked, state, level, said, span)
    local set, rate = state.set, state.rate
    local kind = set[KIND]
    if set[ENDS] ~= 0 then
      for i = 1, #state.sessions do
        level = level + state.sessions[i][FLYING]
        said = said + state.sessions[i][FLYING]
      end
    end
    if kind == BUCKET then
      local missing = max(missing_of(set, rate, now), room_of(set) - level * set[GRAIN])
      note(rate, missing - max(0, room_of(set) - said * set[GRAIN]))
      rate[MISSING] = missing
      rate[AT] = now
    elseif kind ~= NO_RATE then
      local more = set[CAPACITY] - seldom.used_of(asked, set, rate, now) - level
      if more > 0 and kind == SLIDING and span >= 0 then
        seldom.stamp_of(set, rate, now + span - set[PERIOD], more)
      elseif more > 0 then
        take(asked, state, now, more, 0)
      end
    end
  end

  function seldom.empty(now, asked, state)
    seldom.lower(now, asked, state, 0, 0, NEVER)
  end

  function seldom.is_deaf(now, each)
    return each[WOKEN] > 0 and now - each[WOKEN] >= PATIENCE
  end

  function seldom.wake_heads(now, asked, state, sums, wakes)
    local set = state.set
    local free = (set[SLOTS] > 0 and set[SLOTS] or FOREVER) - sums.held
    local flying = sums.flying
    for _, other in ipairs(sums.queue) do
      if other[TURN] > 0 and not seldom.is_deaf(now, other) then
        free = free - other[LACKS_SLOTS]
        flying = flying + other[LACKS_WEIGHT]
        if free < 0 or flying > set[BURST] or now < state.shy then return end
        if other[NAME] ~= asked.id and other[WOKEN] == 0 then
          other[WOKEN] = now
          wakes[other[NAME]] = true
        end
      end
    end
  end

  -- All digits: cjson writes 14.
  function seldom.numbers(list)
    local texts = {}
    for n = 1, #list do texts[n] = format('%.17g', list[n]) end
    return '[' .. concat(texts, ',') .. ']'
  end

  -- States as JSON, as _state.py has them; null where there is none.
  function seldom.look()
    local function pairs_of(list)
      local texts = {}
      for n = 1, #list do texts[n] = seldom.numbers(list[n]) end
      return '[' .. concat(texts, ',') .. ']'
    end
    local function rate_of(kind, rate)
      if kind == SLIDING then return format('{"entries":%s}', pairs_of(rate)) end
      if kind == BUCKET then
        return format(
          '{"missing":%.17g,"at":%d,"issued":%d,"dead":%d,"lows":%s}',
          rate[MISSING], rate[AT], rate[ISSUED], rate[DEAD], pairs_of(rate[LOWS])
        )
      end
      if kind == NO_RATE then return '{}' end
      local text = '{"opens":%d,"ends":%d,"used":%.17g'
      text = format(text, rate[OPENS], rate[CLOSES], rate[USED])
      return text .. (kind == FIXED and format(',"grace":%d}', rate[GRACE]) or '}')
    end
    local states = {}
    for n = 1, #KEYS do
      local blob = redis.call('GET', KEYS[n])
      states[n] = 'null'
      if blob and blob ~= '' then
        local state, sessions = unpack(blob), {}
        for m, each in ipairs(state.sessions) do
          local name = remove(each, NAME)
          sessions[m] = cjson.encode(name) .. ':' .. seldom.numbers(each)
        end
        states[n] = format(
          '{"gen":%.17g,"code":%s,"set":%s,"version":%d,"last":%d,"rate":%s,"pause":%.17g,'
            .. '"empties":%d,"shy":%.17g,"turns":%d,"sessions":{%s}}',
          state.gen, seldom.numbers(state.code), seldom.numbers(state.set), state.version,
          state.last,
          rate_of(state.set[KIND], state.rate), state.pause, state.empties, state.shy, state.turns,
          concat(sessions, ',')
        )
      end
    end
    return '[' .. concat(states, ',') .. ']'
  end

  return rawget(seldom, name)
end

local function step(now, request)
  local asked = request.limits
  local states, marks, known, sums, wakes, refused = {}, {}, {}, {}, {}, false
  for n = 1, #asked do
    local blob = redis.call('GET', KEYS[n])
    if blob and blob ~= '' then states[n] = unpack(blob) end
    marks[n] = mark_of(now, asked[n], states[n])
    refused = refused or marks[n] == STALE or marks[n] == MISMATCH
  end
  for n = 1, #asked do
    local state = states[n] or seldom.blank(now, asked[n].code, asked[n].fresh)
    if not refused then
      keep_time(now, asked[n], state, request.grace)
      if not states[n] and asked[n].initial > 0 then
        seldom.charge(now, asked[n], state, asked[n].initial)
      end
      marks[n] = enter(now, asked[n], state, marks[n])
      apply(now, asked[n], state, wakes)
    end
    known[n] = state
    sums[n] = sums_of(state)
  end
  local wants, stocks = {}, {}
  if not refused then
    if request.wants[1] then
      wants = book(now, request, known, sums, stocks)
    else
      line_up(asked, known, {})
    end
    for n = 1, #asked do
      if sums[n].queue[1] then seldom.wake_heads(now, asked[n], known[n], sums[n], wakes) end
    end
  end
  local limits = {}
  for n = 1, #asked do
    local lasting = lasts_until(now, known[n], sums[n])
    limits[n] = told(now, asked[n], known[n], sums[n], marks[n], lasting, stocks[n])
    if not refused then
      local blob = lasting > now and pack(known[n]) or ''
      if ARGV[2] ~= '' then
        redis.call('SET', KEYS[n], blob)
      elseif blob ~= '' then
        redis.call('SET', KEYS[n], blob, 'PX', ceil((lasting - now) / 1000))
      elseif states[n] then
        redis.call('SET', KEYS[n], '', 'PX', 1)
      end
    end
  end
  if ARGV[3] ~= '' and next(wakes) then
    local called = {}
    for name in pairs(wakes) do
      local address = string.match(name, '^[^/]*/[^/]*/([^/]*)')
      if not called[address] then
        called[address] = true
        redis.call('PUBLISH', ARGV[3] .. address, '')
      end
    end
  end
  local reply = '{"now":%d,"limits":[%s],"wants":[%s]}'
  return format(reply, now, concat(limits, ','), concat(wants, ','))
end

if ARGV[1] == '' then return seldom.look() end
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
return step(now, cjson.decode(ARGV[1]))

end)()
