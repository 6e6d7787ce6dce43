-- Whom the MetaAgent has let pass a moment ago, so that a client that calls again at once costs
-- no question (docs/adr/0022). Who is not known here goes on to ext_authz, and when this script
-- fails everybody does.
--
-- Each worker thread of Envoy remembers for itself. hma/local/gateway_access.py puts KEEP_MS in
-- front: milliseconds from the question for which its answer counts.

local ANSWERED = "envoy.filters.http.ext_authz"
local NOTED = "hma.known_caller"
-- Callers remembered at once, twice as many at most.
local MOST = 1000
-- Bytes of what one of them shows. Envoy's limits of memory do not count what scripts hold.
local LONGEST = 8192

local young, old, count, turned = {}, {}, 0, 0

-- What a caller shows, and from where; nil when that is nothing, more than one of anything, or
-- too long to keep.
local function shown(request)
  local headers, parts = request:headers(), {}
  -- The last one is Envoy's own word, behind a proxy of ours.
  for _, name in ipairs({"authorization", "x-api-key", "x-envoy-external-address"}) do
    if headers:getNumValues(name) > 1 then
      return nil
    end
    parts[#parts + 1] = headers:get(name) or ""
  end
  if parts[1] == "" and parts[2] == "" then
    return nil
  end
  -- Without the port, which is another for every connection.
  local peer = request:streamInfo():downstreamDirectRemoteAddress()
  parts[#parts + 1] = string.match(peer, "^(.*):%d+$") or peer
  -- No value of a header has a line's end in it.
  local all = table.concat(parts, "\n")
  return #all <= LONGEST and all or nil
end

-- Credentials stay in memory for two turns: they are forgotten whole, not one by one.
local function turn(now)
  if count >= MOST or math.abs(now - turned) >= KEEP_MS then
    young, old, count, turned = {}, young, 0, now
  end
end

function envoy_on_request(request)
  local credential = shown(request)
  if credential == nil then
    return
  end
  local now = request:timestamp()
  turn(now)
  local metadata = request:streamInfo():dynamicMetadata()
  local caller = young[credential] or old[credential]
  -- A clock that was put back makes nobody known for longer.
  if caller ~= nil and now >= caller.asked and now - caller.asked < KEEP_MS then
    local headers = request:headers()
    headers:replace("x-hma-identity", caller.identity)
    headers:remove("authorization")
    headers:remove("x-api-key")
    metadata:set(ANSWERED, "tenant", caller.tenant)
    metadata:set(NOTED, "known", true)
  else
    metadata:set(NOTED, "credential", credential)
    metadata:set(NOTED, "asked", now)
  end
end

function envoy_on_response(response)
  local metadata = response:streamInfo():dynamicMetadata()
  local noted, answer = metadata:get(NOTED), metadata:get(ANSWERED)
  if noted == nil or noted.credential == nil or answer == nil or answer.identity == nil then
    return
  end
  local now = response:timestamp()
  turn(now)
  local known = young[noted.credential] or old[noted.credential]
  -- A call that waited is answered after calls that were asked about later.
  if now - noted.asked >= KEEP_MS or known ~= nil and known.asked > noted.asked then
    return
  end
  if young[noted.credential] == nil then
    count = count + 1
  end
  young[noted.credential] = {
    identity = answer.identity, tenant = answer.tenant, asked = noted.asked
  }
end
