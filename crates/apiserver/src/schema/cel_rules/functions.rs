//! Functions that Kubernetes adds to CEL. Addresses and networks are texts in their canonical form.

use std::net::IpAddr;

use cel::common::types::{CelBool, CelInt, CelString, STRING_TYPE};
use cel::common::value::CowVal;
use cel::{DeclarationError, Env, ExecutionError};
use ipnet::IpNet;

/// The standard library, and the functions on texts, lists, addresses and networks.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    // A name that the library declares itself some day keeps the library's meaning.
    let _ = cel::extensions::strings(&mut env);
    let _ = cel::extensions::lists(&mut env);
    let _ = declare(&mut env);
    env
}

fn declare(env: &mut Env) -> Result<(), DeclarationError> {
    let text = || vec![STRING_TYPE];
    env.add_overload("isIP", "is_ip_string", text(), |args| {
        Ok(truth(argument(&args, 0)?.parse::<IpAddr>().is_ok()))
    })?;
    env.add_overload("isCIDR", "is_cidr_string", text(), |args| {
        Ok(truth(argument(&args, 0)?.parse::<IpNet>().is_ok()))
    })?;
    env.add_overload("ip", "string_to_ip", text(), |args| Ok(string(address(&args, 0)?)))?;
    env.add_overload("cidr", "string_to_cidr", text(), |args| Ok(string(network(&args, 0)?)))?;
    let mut member = |name: &str, arguments, function| {
        env.add_member_overload(name, &format!("string_{name}"), STRING_TYPE, arguments, function)
    };
    member("ip", vec![], |args| Ok(string(network(&args, 0)?.addr())))?;
    member("family", vec![], |args| Ok(number(if address(&args, 0)?.is_ipv4() { 4 } else { 6 })))?;
    member("isUnspecified", vec![], |args| Ok(truth(address(&args, 0)?.is_unspecified())))?;
    member("isLoopback", vec![], |args| Ok(truth(address(&args, 0)?.is_loopback())))?;
    member("prefixLength", vec![], |args| Ok(number(network(&args, 0)?.prefix_len().into())))?;
    member("masked", vec![], |args| Ok(string(network(&args, 0)?.trunc())))?;
    member("containsIP", text(), |args| Ok(truth(network(&args, 0)?.contains(&address(&args, 1)?))))?;
    member("containsCIDR", text(), |args| Ok(truth(network(&args, 0)?.contains(&network(&args, 1)?))))
}

fn argument<'a>(args: &'a [CowVal<'_, '_>], index: usize) -> Result<&'a str, ExecutionError> {
    let text = args.get(index).and_then(|value| value.downcast_ref::<CelString<'_>>());
    text.map(|text| text.inner()).ok_or_else(|| ExecutionError::function_error("ip", "not a text"))
}

fn address(args: &[CowVal<'_, '_>], index: usize) -> Result<IpAddr, ExecutionError> {
    let text = argument(args, index)?;
    text.parse().map_err(|_| ExecutionError::function_error("ip", format!("IP Address {text:?} parse error")))
}

fn network(args: &[CowVal<'_, '_>], index: usize) -> Result<IpNet, ExecutionError> {
    let text = argument(args, index)?;
    text.parse().map_err(|_| ExecutionError::function_error("cidr", format!("CIDR {text:?} parse error")))
}

fn string<'b, 'v>(value: impl ToString) -> CowVal<'b, 'v> {
    CowVal::owned(CelString::from(value.to_string()))
}

fn truth<'b, 'v>(value: bool) -> CowVal<'b, 'v> {
    CowVal::owned(CelBool::from(value))
}

fn number<'b, 'v>(value: i64) -> CowVal<'b, 'v> {
    CowVal::owned(CelInt::from(value))
}
