//! One fault of a FaultPolicy. What the CRD refuses is refused here too. Errors begin with the field, as a suffix to the path of the fault.

use super::only;
use crate::{
    index::values,
    objects::traffic::{AbortSpec, DelaySpec, FaultRule},
};
use http::StatusCode;
use remora_api::convert::check;
use remora_model::{
    AbortWith, Fault, GrpcCodes, TrustDomain,
    traffic::{DELAY_MAX, WHOLE},
};
use std::{sync::Arc, time::Duration};

/// Reads a fault, of which nothing is left out.
pub(super) fn read(name: Arc<str>, spec: &FaultRule, trust_domain: &TrustDomain) -> Result<Fault, String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    if spec.delay.is_none() && spec.abort.is_none() {
        return Err(": has neither delay nor abort".to_owned());
    }
    let only = spec.only.as_ref().map(|spec| only::read(spec, trust_domain)).transpose();
    let fault = Fault {
        name,
        only: only.map_err(|e| format!(".match{e}"))?.unwrap_or_default(),
        delay: spec.delay.as_ref().map(delay).transpose().map_err(|e| format!(".delay{e}"))?,
        abort: spec.abort.as_ref().map(abort).transpose().map_err(|e| format!(".abort{e}"))?,
    };
    check::fault(&fault).map_err(|error| format!(": {error}"))?;
    Ok(fault)
}

fn delay(spec: &DelaySpec) -> Result<(u32, Duration), String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let text = spec.duration.as_deref().ok_or(".duration: is missing")?;
    let time = values::duration(text).map_err(|e| format!(".duration: {e}"))?;
    if time.is_zero() || time > DELAY_MAX {
        return Err(format!(".duration: {text:?} is not from 1ms to 1h"));
    }
    Ok((share(spec.percent)?, time))
}

fn abort(spec: &AbortSpec) -> Result<(u32, AbortWith), String> {
    spec.unknown.none().map_err(|e| format!(".{e}"))?;
    let how = match (spec.http_status, spec.grpc_status.as_deref(), spec.reset) {
        (Some(number), None, None) => {
            let status = StatusCode::from_u16(number).ok().filter(|_| (400..600).contains(&number));
            AbortWith::Status(status.ok_or_else(|| format!(".httpStatus: {number} is not from 400 to 599"))?)
        }
        (None, Some(name), None) => {
            let codes = GrpcCodes::parse(name).map_err(|error| format!(".grpcStatus: {error}"))?;
            let mut numbers = codes.iter().filter_map(|number| u8::try_from(number).ok());
            let (Some(code), None) = (numbers.next(), numbers.next()) else {
                return Err(format!(".grpcStatus: {name:?} is more than one"));
            };
            AbortWith::Grpc(code)
        }
        (None, None, Some(true)) => AbortWith::Reset,
        (None, None, Some(false)) => return Err(".reset: is false; leave it out".to_owned()),
        (None, None, None) => return Err(": has none of httpStatus, grpcStatus and reset".to_owned()),
        _ => return Err(": has more than one of httpStatus, grpcStatus and reset".to_owned()),
    };
    Ok((share(spec.percent)?, how))
}

/// A part of all requests; all, where nothing is said.
fn share(percent: Option<f64>) -> Result<u32, String> {
    let percent = percent.unwrap_or(100.0);
    let millionths = (percent * f64::from(WHOLE) / 100.0).round();
    if !(1.0..=f64::from(WHOLE)).contains(&millionths) || percent > 100.0 {
        return Err(format!(".percent: {percent} is not from 0.0001 to 100"));
    }
    // In that range it is a whole number of 32 bits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was looked at")]
    Ok(millionths as u32)
}
