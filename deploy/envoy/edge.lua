-- Runs before the transcoder, so it sees requests as the client sent them and answers as the client will get them.
-- It replaces an x-request-id that is not valid (Envoy itself repeats the id in the answer), gives answers the status and
-- error body that the services chose, and hides gRPC.

local MAX_ID_LENGTH = 128

local function is_grpc(content_type)
  return content_type ~= nil and string.sub(content_type, 1, 16) == "application/grpc"
end

local function is_valid_id(id)
  return #id <= MAX_ID_LENGTH and string.find(id, "^[A-Za-z0-9._:/+=@-]+$") ~= nil
end

function envoy_on_request(handle)
  local headers = handle:headers()
  -- x-turnpike-stream-id is a fresh UUID that the header_mutation filter has just set.
  local fresh = headers:get("x-turnpike-stream-id")
  headers:remove("x-turnpike-stream-id")
  local id = headers:get("x-request-id")
  if id == nil or not is_valid_id(id) then
    headers:replace("x-request-id", fresh)
  end
  -- Only Envoy itself may say what the original request line was.
  headers:remove("x-envoy-original-path")
  headers:remove("x-envoy-original-method")
  -- Metadata cost more than all else here, so an ordinary request has none.
  if headers:get(":method") == "HEAD" then
    handle:streamInfo():dynamicMetadata():set("turnpike", "head", "1")
  end
  if is_grpc(headers:get("content-type")) then
    handle:streamInfo():dynamicMetadata():set("turnpike", "grpc", "1")
  end
end

local function was(kind, handle)
  local metadata = handle:streamInfo():dynamicMetadata():get("turnpike")
  return metadata ~= nil and metadata[kind] ~= nil
end

function envoy_on_response(handle)
  local headers = handle:headers()
  if is_grpc(headers:get("content-type")) and was("grpc", handle) then
    headers:remove("x-http-status")
    headers:remove("x-error-body")
    return
  end
  local status = headers:get("x-http-status")
  local error_body = headers:get("x-error-body")
  headers:remove("x-http-status")
  headers:remove("x-error-body")
  headers:remove("grpc-status")
  headers:remove("grpc-message")
  headers:remove("grpc-status-details-bin")
  headers:remove("grpc-accept-encoding")
  if status ~= nil then
    headers:replace(":status", status)
  end
  if status == "204" then
    headers:remove("content-type")
    headers:remove("content-length")
    local body = handle:body(true)
    body:setBytes("")
    handle:headers():remove("content-length")
  elseif error_body ~= nil and was("head", handle) then
    -- A body would go out all the same, and be read as the next answer on the connection.
    headers:replace("content-type", "application/json")
    headers:remove("content-length")
  elseif error_body ~= nil then
    headers:replace("content-type", "application/json")
    local body = handle:body(true)
    local length = body:setBytes(error_body)
    handle:headers():replace("content-length", tostring(length))
  end
end
