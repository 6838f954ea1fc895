-- Gives an answer the status and the error body that a service chose, and writes the body where gRPC itself refused.
-- It runs only for answers with x-http-status, or with a grpc-status other than 0. ERRORS is rendered before these lines;
-- the route's metadata say in which dialect the path speaks, and whether the request was a HEAD.

local function replaced(handle, text)
  -- Headers must be asked for anew after the body.
  local length = handle:body(true):setBytes(text)
  return handle:headers(), length
end

function envoy_on_response(handle)
  local headers = handle:headers()
  local route = handle:metadata()
  local status = headers:get("x-http-status")
  local body = headers:get("x-error-body")
  local failed = headers:get("grpc-status")
  if status ~= nil then
    headers:replace(":status", status)
  elseif failed ~= nil and body == nil then
    local code = headers:get(":status")
    local known = ERRORS[route:get("dialect") or "openai"]
    local found = known[code] or known["500"]
    body = found.body
    if found.retry ~= nil and headers:get("retry-after") == nil then
      headers:replace("retry-after", found.retry)
    end
  end
  if status == "204" then
    headers:remove("content-type")
    headers:remove("content-length")
    headers = replaced(handle, "")
    headers:remove("content-length")
  elseif body ~= nil and route:get("head") then
    -- A body would go out all the same, and be read as the next answer on the connection.
    headers:replace("content-type", "application/json")
    headers:remove("content-length")
  elseif body ~= nil then
    headers:replace("content-type", "application/json")
    local length
    headers, length = replaced(handle, body)
    headers:replace("content-length", tostring(length))
  end
end
