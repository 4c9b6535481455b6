//! What a request is refused with: one variant per code of docs/protocol.md, and its way to an HTTP answer.
//!
//! A refused *row* is no error; it is an outcome of the push (`protocol::Outcome`). What an answer says is for the person at
//! the device. Causes inside the server (`Internal`) are for the operator's log and never travel: they may name files or values.

use syncline_core::{DecodeError, ErrorBody, HistoryId};

/// What a revoked device seals its unsent work with; told to nobody but that device, on its own bearer.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SealKey(pub Option<[u8; 32]>);

/// Shows whether there is one; never the key.
impl std::fmt::Debug for SealKey {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "SealKey" } else { "no SealKey" })
    }
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// The bearer or the token is not accepted. One text for every cause that would tell whether a device exists.
    #[error("{0}")]
    Unauthorized(String),
    /// The bearer is not one of this device, time and history: the device signs again with these and tries once more.
    #[error("the bearer is not accepted; sign again with the authority's time and history, and if that fails too, attach with a new token")]
    BearerOutOfDate {
        /// The authority's clock, in ms since 1970.
        server_time_ms: i64,
        /// The authority's history.
        history: HistoryId,
    },
    /// The device was revoked.
    #[error("this device was revoked; attach it again with a new token if that was a mistake")]
    DeviceRevoked(SealKey),
    /// Not the caller's, or not there: one may not tell which.
    #[error("{0}")]
    Forbidden(String),
    /// The other end is too old.
    #[error("{0}")]
    UpgradeRequired(String),
    /// The device's schema is newer than the authority's.
    #[error("{0}")]
    SchemaBehind(String),
    /// A bundle is missing before this one.
    #[error("{0}")]
    BundleGap(String),
    /// The bundle's number was used by another life of the device.
    #[error("{0}")]
    SourceReused(String),
    /// A later attempt at this bundle has been seen.
    #[error("{0}")]
    StaleAttempt(String),
    /// `Idempotency-Key` and body disagree.
    #[error("Idempotency-Key {0}")]
    IdempotencyMismatch(String),
    /// The device's past is not this authority's.
    #[error("{0}")]
    HistoryChanged(String),
    /// A stamp lies in the future.
    #[error("{0}")]
    ClockAhead(String),
    /// A limit on size is passed.
    #[error("{0}; split it, or ask the operator for a higher limit")]
    TooLarge(String),
    /// Too much at a time.
    #[error("{message}")]
    RateLimited {
        /// In words.
        message: String,
        /// Seconds after which to try again.
        retry_after_s: u64,
    },
    /// The account's quota is used up.
    #[error("{0}")]
    QuotaExceeded(String),
    /// The authority's disk is full.
    #[error("the authority's disk is full; work is kept on the device, tell the operator")]
    StorageFull,
    /// Busy or not ready.
    #[error("{0}; work is kept on the device, try again later")]
    Unavailable(String),
    /// The request cannot be understood.
    #[error("{0}")]
    BadRequest(String),
    /// No such route.
    #[error("there is nothing at {0}; see docs/protocol.md for what there is")]
    NotFound(String),
    /// The route exists, the method does not.
    #[error("{0} is not answered here; see docs/protocol.md for what is")]
    MethodNotAllowed(String),
    /// Something broke inside; the text is for the log.
    #[error("internal error: {0}")]
    Internal(String),
}

impl ApiError {
    /// Returns the HTTP status.
    pub fn status(&self) -> u16 {
        use ApiError::*;
        match self {
            BadRequest(_) => 400,
            Unauthorized(_) | BearerOutOfDate { .. } => 401,
            DeviceRevoked(_) | Forbidden(_) | QuotaExceeded(_) => 403,
            NotFound(_) => 404,
            MethodNotAllowed(_) => 405,
            SchemaBehind(_) | BundleGap(_) | SourceReused(_) | StaleAttempt(_) => 409,
            IdempotencyMismatch(_) | HistoryChanged(_) | ClockAhead(_) => 409,
            TooLarge(_) => 413,
            UpgradeRequired(_) => 426,
            RateLimited { .. } => 429,
            Internal(_) => 500,
            Unavailable(_) => 503,
            StorageFull => 507,
        }
    }

    /// Returns the code that programs branch on.
    pub fn code(&self) -> &'static str {
        use ApiError::*;
        match self {
            BadRequest(_) => "bad_request",
            Unauthorized(_) | BearerOutOfDate { .. } => "unauthorized",
            DeviceRevoked(_) => "device_revoked",
            Forbidden(_) => "forbidden",
            QuotaExceeded(_) => "quota_exceeded",
            NotFound(_) => "not_found",
            MethodNotAllowed(_) => "method_not_allowed",
            SchemaBehind(_) => "schema_behind",
            BundleGap(_) => "bundle_gap",
            SourceReused(_) => "source_reused",
            StaleAttempt(_) => "stale_attempt",
            IdempotencyMismatch(_) => "idempotency_mismatch",
            HistoryChanged(_) => "history_changed",
            ClockAhead(_) => "clock_ahead",
            TooLarge(_) => "too_large",
            UpgradeRequired(_) => "upgrade_required",
            RateLimited { .. } => "rate_limited",
            Internal(_) => "internal",
            Unavailable(_) => "unavailable",
            StorageFull => "storage_full",
        }
    }

    /// Returns after how many seconds a retry makes sense, where waiting is the remedy.
    pub fn retry_after_s(&self) -> Option<u64> {
        match self {
            ApiError::RateLimited { retry_after_s, .. } => Some(*retry_after_s),
            ApiError::Unavailable(_) => Some(1),
            ApiError::StorageFull => Some(60),
            _ => None,
        }
    }

    /// Returns the answer's body. `details` of a bearer out of date is `<server ms> <history hex>`, of a revoked device `seal <key hex>`.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            code: self.code().into(),
            message: match self {
                ApiError::Internal(_) => "the authority failed at this; work is kept on the device, the cause is in the server's log".into(),
                other => other.to_string(),
            },
            retry_after: self.retry_after_s(),
            details: match self {
                ApiError::BearerOutOfDate { server_time_ms, history } => Some(format!("{server_time_ms} {history}")),
                ApiError::DeviceRevoked(SealKey(Some(key))) => Some(format!("seal {}", syncline_core::ids::hex(key))),
                _ => None,
            },
        }
    }

    /// Returns the one answer for a scope that the caller may not see and for one that does not exist.
    pub fn no_such_scope() -> ApiError {
        ApiError::Forbidden("there is no such scope for this device".into())
    }
}

impl From<DecodeError> for ApiError {
    fn from(e: DecodeError) -> ApiError {
        match e {
            DecodeError::TooLarge(_) => ApiError::TooLarge(e.to_string()),
            _ => ApiError::BadRequest(format!("reading the request: {e}")),
        }
    }
}

impl From<syncline_replica::Error> for ApiError {
    fn from(e: syncline_replica::Error) -> ApiError {
        use syncline_replica::Error;
        match e {
            Error::Sqlite { doing, cause } => match ApiError::from(cause) {
                ApiError::Internal(text) => ApiError::Internal(format!("{doing}: {text}")),
                known => known,
            },
            Error::Decode { .. } | Error::Damaged(_) | Error::Incomplete { .. } | Error::Format(..) | Error::NotInitialised => {
                ApiError::Internal(e.to_string())
            }
            Error::Schema(_) | Error::Refused(_) => ApiError::BadRequest(e.to_string()),
        }
    }
}

impl From<rusqlite::Error> for ApiError {
    fn from(e: rusqlite::Error) -> ApiError {
        use rusqlite::ErrorCode;
        match e.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => ApiError::StorageFull,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ApiError::Unavailable("the authority's database is busy".into()),
            _ => ApiError::Internal(e.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_cause_stays_in_the_server() {
        let body = ApiError::Internal("no such table: secrets".into()).body();
        assert!(!body.message.contains("secrets"));
        assert_eq!(body.code, "internal");
    }

    #[test]
    fn a_bearer_out_of_date_tells_time_and_history() {
        let error = ApiError::BearerOutOfDate { server_time_ms: 5, history: HistoryId([1; 16]) };
        assert_eq!((error.status(), error.code()), (401, "unauthorized"));
        assert_eq!(error.body().details.as_deref(), Some("5 01010101010101010101010101010101"));
    }
}
